"""What a user asks for: `JobSpec`, checked when it is made."""

from __future__ import annotations

import dataclasses
import inspect
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_clusterjobs.core.errors import SpecError, UnknownArgumentError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.core.redaction import Secret, redact
from pytest_clusterjobs.core.units import parse_duration, parse_memory

KEEP_POLICIES = ("failed", "always", "never")

# Values that become one word of a directive or of a command line. Everything a scheduler's manual allows in such a
# name, nothing that a shell or a directive parser would split or interpret.
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+@:/=%-]*")
# LSF compares: mem>1000. Values of directives see no shell, and would redirect nothing to a path if they did.
_EXPRESSION = re.compile(r"(?:[A-Za-z0-9_.,+@:/=%&|!*()\[\]-]|[<>](?=[=A-Za-z0-9]))+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The resources and settings of a job. Frozen, hashable apart from ``env``; made by `make_spec`."""

    #: CPU cores for the job's task, per node.
    cores: int = 1
    #: Memory per node in bytes, or None for the scheduler's default.
    memory_bytes: int | None = None
    #: Time limit given to the scheduler, in seconds, or None for its default.
    time_limit_s: float | None = None
    #: GPUs per node.
    gpus: int = 0
    #: Number of nodes.
    nodes: int = 1
    #: Partition or queue; two words for one thing.
    partition: str | None = None
    #: Account or project that pays.
    account: str | None = None
    #: Quality of service.
    qos: str | None = None
    #: Node features, in the scheduler's own language.
    constraint: str | None = None
    #: Environment variables for the job. Their values may be secrets, given as `Secret` too: no repr, record or message
    #: holds one.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Environment modules to load, in order.
    modules: tuple[str, ...] = ()
    #: Shell lines before the job's code.
    prologue: tuple[str, ...] = ()
    #: Shell lines after it; they cannot change its exit code.
    epilogue: tuple[str, ...] = ()
    #: Words added to the submit command.
    extra_args: tuple[str, ...] = ()
    #: Directives added to the script, without the scheduler's prefix (``--exclusive``, not ``#SBATCH --exclusive``).
    extra_directives: tuple[str, ...] = ()
    #: Name of the job, or None for the function's.
    name: str | None = None
    #: Name of the backend that must run it, or None for the selected one.
    backend: str | None = None
    #: Split a per-item loop over ``cores`` processes.
    parallel: bool = False
    #: Our limit on the run time, in seconds, or None.
    timeout_s: float | None = None
    #: Our limit on the wait in the queue, in seconds, or None.
    queue_timeout_s: float | None = None
    #: When the job's directory is kept: "failed" (when its test failed, or outside a test when it did itself),
    #: "always", "never", or None for the run's policy.
    keep: str | None = None
    #: False: the job sees only a baseline environment and ``env``, not the caller's.
    inherit_env: bool = True
    #: Names of the fields that somebody gave, be it with a default's value: layers below do not change these.
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __hash__(self) -> int:
        return hash((self.cores, self.memory_bytes, self.partition, self.name, self.backend))

    def to_dict(self) -> dict[str, Any]:
        """Give what was asked for, without defaults, for records and reports. Values of ``env`` are left out."""
        default = JobSpec()
        asked = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in ("env", "given") and getattr(self, item.name) != getattr(default, item.name)
        }
        return {"cores": self.cores, **asked, **({"env": sorted(self.env)} if self.env else {})}


def make_spec(
    base: JobSpec | None = None,
    /,
    *,
    cores: Any = None,
    memory: Any = None,
    time: Any = None,
    gpus: Any = None,
    nodes: Any = None,
    partition: Any = None,
    queue: Any = None,
    account: Any = None,
    qos: Any = None,
    constraint: Any = None,
    env: Any = None,
    modules: Any = None,
    prologue: Any = None,
    epilogue: Any = None,
    extra_args: Any = None,
    extra_directives: Any = None,
    name: Any = None,
    backend: Any = None,
    parallel: Any = None,
    timeout: Any = None,
    queue_timeout: Any = None,
    keep: Any = None,
    inherit_env: Any = None,
    **unknown: Any,
) -> JobSpec:
    """Check arguments as users write them and lay them over ``base``; None leaves the base's value.

    Raises:
        UnknownArgumentError: There is no such argument; the message has the nearest one.
        SpecError: A value is impossible; the message names the argument, the value and the allowed forms.
    """
    if unknown:
        raise _unknown_argument(next(iter(unknown)))
    if partition is not None and queue is not None and partition != queue:
        raise SpecError(f"partition={partition!r} and queue={queue!r} are two names of one thing; give one of them")
    given: dict[str, Any] = {
        "cores": cores if cores is None else _count("cores", cores, 1),
        "memory_bytes": memory if memory is None else parse_memory(memory),
        "time_limit_s": time if time is None else parse_duration(time),
        "gpus": gpus if gpus is None else _count("gpus", gpus, 0),
        "nodes": nodes if nodes is None else _count("nodes", nodes, 1),
        "partition": _word("partition", partition) if partition is not None else _word("queue", queue),
        "account": _word("account", account),
        "qos": _word("qos", qos),
        "constraint": _word("constraint", constraint, _EXPRESSION),
        "env": env if env is None else _environment(env),
        "modules": tuple(str(_word("modules", module)) for module in _lines("modules", modules) or ()) or None,
        "prologue": _lines("prologue", prologue),
        "epilogue": _lines("epilogue", epilogue),
        "extra_args": _single_lines("extra_args", extra_args),
        "extra_directives": _directives(extra_directives),
        "name": _name(name),
        "backend": _word("backend", backend),
        "parallel": _truth("parallel", parallel),
        "timeout_s": timeout if timeout is None else parse_duration(timeout, "timeout"),
        "queue_timeout_s": queue_timeout if queue_timeout is None else parse_duration(queue_timeout, "queue_timeout"),
        "keep": _one_of("keep", keep, KEEP_POLICIES),
        "inherit_env": _truth("inherit_env", inherit_env),
    }
    changes = {key: value for key, value in given.items() if value is not None}
    for key in ("prologue", "epilogue", "extra_args", "extra_directives"):
        _refuse_secrets(key, changes.get(key, ()))
    base = base or JobSpec()
    return dataclasses.replace(base, **changes, given=base.given.union(changes))


def lay_over(defaults: JobSpec, spec: JobSpec) -> JobSpec:
    """Lay a job's own settings over defaults: what nobody gave for the job is taken from them; ``env`` is merged."""
    empty = JobSpec()
    own = {
        item.name: getattr(spec, item.name)
        for item in dataclasses.fields(spec)
        if item.name in spec.given or getattr(spec, item.name) != getattr(empty, item.name)
    }
    own.update(env={**defaults.env, **spec.env}, given=defaults.given | spec.given)
    return dataclasses.replace(defaults, **own)


#: The names that `make_spec` takes, in its order.
SPEC_ARGUMENTS: tuple[str, ...] = tuple(
    parameter.name
    for parameter in inspect.signature(make_spec).parameters.values()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)


def _unknown_argument(name: str) -> UnknownArgumentError:
    return UnknownArgumentError(
        f"no argument {name!r} for a cluster job{nearest(name, SPEC_ARGUMENTS)} Known: {', '.join(SPEC_ARGUMENTS)}"
    )


def _count(what: str, value: object, least: int) -> int:
    if isinstance(value, bool):
        raise SpecError(f"{what}={value!r} must be a whole number, {least} or more")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # anything that is an integer, numpy's too
    except TypeError:
        raise SpecError(f"{what}={value!r} must be a whole number, {least} or more") from None
    if number < least:
        raise SpecError(f"{what}={value!r} must be {least} or more")
    return number


def _refuse_secrets(what: str, lines: tuple[str, ...]) -> None:
    """Raise where a secret would stand in a script or on a command line, which schedulers keep and show."""
    if any(redact(line) != line for line in lines):
        raise SpecError(f"{what} has a secret in it, which the job's script would show; give it in env, and use $NAME")


def _word(what: str, value: object, pattern: re.Pattern[str] = _WORD) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise SpecError(
            f"{what}={value!r} must be one word of letters, digits and punctuation that no shell interprets"
        )
    return value


def _name(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise SpecError(f"name={value!r} must be a text with at least one character")
    return value


def _truth(what: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise SpecError(f"{what}={value!r} must be True or False")
    return value


def _one_of(what: str, value: object, allowed: Iterable[str]) -> str | None:
    if value is None:
        return None
    if value not in tuple(allowed):
        raise SpecError(f"{what}={value!r} must be one of {', '.join(allowed)}{nearest(str(value), allowed)}")
    return str(value)


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise SpecError(f"env={value!r} must be a mapping of names to texts")
    texts = {name: text.reveal() if isinstance(text, Secret) else text for name, text in value.items()}
    for name, text in texts.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise SpecError(f"env has a name {name!r} that is no environment variable: letters, digits and _ only")
        if not isinstance(text, str) or "\0" in text:
            what = "one with a NUL character" if isinstance(text, str) else f"of type {type(text).__name__}"
            raise SpecError(f"env[{name!r}] must be a text without NUL characters, not {what}")
    return texts


def _lines(what: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    lines = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else None
    if lines is None or not all(isinstance(line, str) and "\0" not in line for line in lines):
        raise SpecError(f"{what}={value!r} must be a text or a sequence of texts")
    return lines


def _single_lines(what: str, value: object) -> tuple[str, ...] | None:
    lines = _lines(what, value)
    for line in lines or ():
        if not line.strip() or any(ord(char) < 32 for char in line):
            raise SpecError(f"{what} has {line!r}: each must be one line with something in it")
    return lines


def _directives(value: object) -> tuple[str, ...] | None:
    lines = _single_lines("extra_directives", value)
    for line in lines or ():
        if line.startswith("#"):
            raise SpecError(
                f"extra_directives has {line!r}: write it without the scheduler's prefix, e.g. '--exclusive'"
            )
    return lines
