"""What a configuration file may say: every key, checked by pydantic, which is loaded only when there is a file.

All that is wrong in all files is told at once, each with file, line and key path. Values of ``env`` are in no message.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pytest_clusterjobs.config import credentials
from pytest_clusterjobs.config.files import Document, KeyPath, dotted
from pytest_clusterjobs.core.errors import SpecError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.core.spec import KEEP_POLICIES, make_spec
from pytest_clusterjobs.core.units import parse_duration

#: Words of ``--cluster`` that no profile can be named.
RESERVED = ("auto", "all", "none")

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 1}
_DURATION = {"type": ["string", "number"], "examples": ["00:30:00", "30m", 90]}
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_MAPPING = {"type": "object", "additionalProperties": {"type": "string"}}
_WORDS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_CREDENTIALS = {
    "type": "object",
    "propertyNames": {"pattern": f"^{credentials.KEY.pattern}$"},
    "additionalProperties": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^(op://.+)?$"}, _WORDS]},
}


class Key(NamedTuple):
    """One key of ``defaults`` or of a profile."""

    name: str
    #: Its JSON schema.
    schema: Mapping[str, Any]
    #: What it means; for the documentation and for editors.
    help: str
    #: Raises ValueError for a wrong value; the message names the key.
    check: Callable[[Any], object]
    #: False: not in ``defaults``.
    is_default: bool = True


def _job(name: str) -> Callable[[Any], object]:
    return lambda value: make_spec(**{name: value})


def _job_texts(name: str) -> Callable[[Any], object]:
    def check(value: Any) -> object:
        if not isinstance(value, (str, list)):
            raise SpecError(f"{name}={value!r} must be a text or a list of texts")
        return make_spec(**{name: value})

    return check


def _duration(name: str) -> Callable[[Any], object]:
    return lambda value: parse_duration(value, name)


def _text(name: str) -> Callable[[Any], object]:
    def check(value: Any) -> object:
        if not isinstance(value, str) or not value.strip() or any(ord(char) < 32 for char in value):
            raise SpecError(f"{name}={value!r} must be a text of one line with something in it")
        return value

    return check


def _host(value: Any) -> object:
    hosts = value if isinstance(value, list) else [value]
    for host in hosts:
        _text("host")(host)
        if host.startswith("-") or any(char.isspace() for char in host):
            raise SpecError(f"host={host!r} must be a host as ssh knows it: name, user@name, or ssh://user@name:port")
    if len(set(hosts)) != len(hosts) or not hosts:
        raise SpecError(f"host={value!r} must name one host or several, each once")
    return value


def _count(value: Any) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"max_jobs={value!r} must be a whole number, 1 or more")
    return value


def _factor(value: Any) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise SpecError(f"timeout_factor={value!r} must be a number above 0")
    return value


def _serial(value: Any) -> object:
    if not isinstance(value, bool):
        raise SpecError(f"serial={value!r} must be true or false")
    return value


def _env(value: Any) -> object:
    """Check names and types. A message has a name, never a value."""
    if not isinstance(value, dict):
        raise SpecError("env must be a mapping of names to texts")
    if wrong := [str(name) for name, text in value.items() if not isinstance(text, str)]:
        raise SpecError(f"env must have texts: quote the value{'s'[: len(wrong) > 1]} of {', '.join(wrong)}")
    return make_spec(env=value)


def _skip(value: Any) -> object:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise SpecError(f"directives_skip={value!r} must be a text or a list of texts, each with something in it")
    return value


def _options(value: Any) -> object:
    if not isinstance(value, dict):
        raise SpecError(f"options={value!r} must be a mapping of names to texts")
    for name, text in value.items():
        if not isinstance(text, str):
            raise SpecError(f"options.{name}={text!r} must be a text; quote it")
    return value


def _credentials(value: Any) -> object:
    """Check names and forms. A message has a name, never a value: somebody may have written one."""
    if not isinstance(value, dict):
        raise SpecError("credentials must be a mapping of names to references, commands, or nothing")
    for name, declared in value.items():
        if not credentials.KEY.fullmatch(str(name)):
            raise SpecError(f"credentials has a name {name!r}; it must be of capital letters, digits and _")
        is_reference = isinstance(declared, str) and credentials.REFERENCE.fullmatch(declared)
        if not (declared in (None, "") or is_reference or _is_command(declared)):
            raise SpecError(
                f"credentials.{name} must be a reference op://vault/item/field, a command as a list of words, or "
                "nothing: no value belongs in this file"
            )
    return value


def _credential_command(value: Any) -> object:
    if not _is_command(value):
        raise SpecError("credential_command must be a list of words, the first one a program")
    return value


def _is_command(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) and each for each in value)


KEYS: tuple[Key, ...] = (
    Key("backend", _TEXT, "name of the backend", _text("backend"), False),
    Key("extends", _TEXT, "name of a profile whose settings lie below this one's", _text("extends"), False),
    Key(
        "host",
        _TEXTS,
        "machine where the scheduler is spoken to, as ssh knows it; jobs' files then lie there. For the backend ssh: "
        "the machine that runs the jobs, or a list of them",
        _host,
        False,
    ),
    Key("partition", _TEXT, "partition or queue", _job("partition")),
    Key("queue", _TEXT, "another word for partition", _job("queue")),
    Key("account", _TEXT, "account or project that pays", _job("account")),
    Key("qos", _TEXT, "quality of service", _job("qos")),
    Key("constraint", _TEXT, "node features, in the scheduler's language", _job("constraint")),
    Key("cores", _COUNT, "CPU cores per node", _job("cores")),
    Key("memory", {"type": ["string", "number"]}, "memory per node, such as 4GB, or bytes", _job("memory")),
    Key("time", _DURATION, "limit on the run time, given to the scheduler", _job("time")),
    Key("gpus", {"type": "integer", "minimum": 0}, "GPUs per node", _job("gpus")),
    Key("nodes", _COUNT, "number of nodes", _job("nodes")),
    Key("env", _MAPPING, "environment variables of the jobs; merged name by name", _env),
    Key("modules", _TEXTS, "environment modules to load, in order", _job_texts("modules")),
    Key("prologue", _TEXTS, "shell lines before the job's code", _job_texts("prologue")),
    Key("epilogue", _TEXTS, "shell lines after it", _job_texts("epilogue")),
    Key("extra_args", _TEXTS, "words added to the submit command", _job_texts("extra_args")),
    Key(
        "extra_directives",
        _TEXTS,
        "directives added to the script, without the scheduler's prefix: --exclusive, not #SBATCH --exclusive",
        _job_texts("extra_directives"),
    ),
    Key(
        "directives_skip",
        _TEXTS,
        "directives of the script that contain one of these texts are left out",
        _skip,
    ),
    Key(
        "keep",
        {"enum": list(KEEP_POLICIES)},
        "whose directories are kept: failed jobs', always all, or never any",
        _job("keep"),
    ),
    Key("timeout", _DURATION, "our limit on the run time", _job("timeout")),
    Key("queue_timeout", _DURATION, "our limit on the wait in the queue", _job("queue_timeout")),
    Key(
        "timeout_factor",
        {"type": "number", "exclusiveMinimum": 0},
        "what time, timeout and queue_timeout are multiplied with here, wherever they are given: 3 for a slow place",
        _factor,
    ),
    Key(
        "serial",
        {"type": "boolean"},
        "true: the tests that run here run one after another, on one worker of pytest-xdist",
        _serial,
        False,
    ),
    Key("python", _TEXT, "the Python that runs the jobs: a path, or a name on the nodes' PATH", _text("python")),
    Key(
        "workdir",
        _TEXT,
        "directory for the jobs' files, which the nodes must see under the same name; one for the whole run. With a "
        "host: the directory there, .clusterjobs in the home directory unless given",
        _text("workdir"),
    ),
    Key("max_jobs", _COUNT, "at most so many unfinished jobs at once; one for the whole run", _count),
    Key("command_timeout", _DURATION, "a scheduler command is killed after this time", _duration("command_timeout")),
    Key(
        "lost_after",
        _DURATION,
        "a job that is unknown to every source for so long counts as lost",
        _duration("lost_after"),
    ),
    Key(
        "credentials",
        _CREDENTIALS,
        "names of passwords and tokens, each with an op:// reference, a command that prints it, or nothing; merged "
        "name by name",
        _credentials,
    ),
    Key(
        "credential_command",
        _WORDS,
        "command that prints any of the credentials; {key} and {profile} in its words are replaced",
        _credential_command,
    ),
    Key("options", _MAPPING, "what this backend alone knows; each backend lists its own", _options, False),
)
#: Names of the keys, in their order.
NAMES = tuple(key.name for key in KEYS)
#: Keys that may stand in ``defaults``.
DEFAULT_NAMES = tuple(key.name for key in KEYS if key.is_default)


@functools.cache
def _models() -> Any:
    """Make the model of a file."""
    from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema, create_model

    def field(key: Key) -> Any:
        def check(value: Any) -> Any:
            if value is None:
                raise ValueError("has no value; write one, or remove the key")
            key.check(value)
            return value

        kind = Annotated[Any, PlainValidator(check), WithJsonSchema({**key.schema, "description": key.help})]
        return (kind, Field(default=None))

    closed = ConfigDict(extra="forbid")
    defaults = create_model("Defaults", __config__=closed, **{key.name: field(key) for key in KEYS if key.is_default})
    profile = create_model("Profile", __config__=closed, **{key.name: field(key) for key in KEYS})
    return create_model(
        "clusterjobs.yaml",
        __config__=closed,
        defaults=(defaults | None, Field(default=None, description="settings for every backend and profile")),
        profiles=(
            dict[str, profile | None] | None,  # type: ignore[valid-type]  # made above
            Field(default=None, description="named places for jobs, by name"),
        ),
    )


def schema() -> dict[str, Any]:
    """Give the JSON schema of a file, for editors."""
    found: dict[str, Any] = _models().model_json_schema()
    for model in found["$defs"].values():
        for each in model["properties"].values():  # an absent key is no null
            del each["default"], each["title"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def problems(document: Document) -> list[str]:
    """Give all that is wrong in a file by itself, in the order of its lines."""
    from pydantic import ValidationError

    found = list(document.problems)
    try:
        _models().model_validate(document.data)
    except ValidationError as error:
        found += [
            _worded(document, each)
            for each in error.errors(include_url=False, include_input=False)
            if each["type"] != "invalid_key" and each["loc"][-1] != "[key]"  # the document's own problems have it
        ]
    return list(dict.fromkeys([*found, *_about_names(document)]))


def _worded(document: Document, error: Mapping[str, Any]) -> str:
    path: KeyPath = error["loc"]
    where = f"{document.place(path)}: {dotted(path)}"
    if error["type"] == "extra_forbidden":
        known = _known_at(path)
        hint = nearest(str(path[-1]), known)
        return f"{where}: there is no such key{hint or '.'} Known: {', '.join(known)}"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where}: must be a mapping"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


def _known_at(path: KeyPath) -> tuple[str, ...]:
    if len(path) == 1:
        return ("defaults", "profiles")
    return DEFAULT_NAMES if path[0] == "defaults" else NAMES


def _about_names(document: Document) -> Iterator[str]:
    profiles = document.data.get("profiles")
    for name in profiles if isinstance(profiles, dict) else ():
        if name in RESERVED or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", str(name)):
            why = "is a word of --cluster" if name in RESERVED else "must be of letters, digits and _ . -"
            path = ("profiles", str(name))
            yield f"{document.place(path)}: {dotted(path)}: a profile's name {why}; choose another"


def texts(value: object) -> tuple[str, ...]:
    """Give a text or a list of texts as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else ()


def absolute(path: str, document: Document) -> str:
    """Give a path of a file's own words, relative to the file."""
    return os.path.normpath(os.path.join(os.path.dirname(document.path), os.path.expanduser(path)))
