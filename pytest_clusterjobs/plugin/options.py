"""The plugin's options: each a command-line option, an ini value and an environment variable, read once, here.

The command line wins over the environment, the environment over the ini file. A wrong value is a `pytest.UsageError`
that names the place it came from, the allowed values and the nearest of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest

if TYPE_CHECKING:
    from pathlib import Path

#: Where a job goes when nothing says where.
LOCAL = "local"
#: Words of ``--cluster`` that are no backend's name.
SPECIAL_WORDS = ("auto", "all", "none")
MISSING_POLICIES = ("error", "skip")
KEEP_POLICIES = ("failed", "always", "never")
REPORT_SUFFIXES = (".json",)

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class Given(NamedTuple):
    """A value and where it was given."""

    #: As it was written; a list for an option that may be repeated.
    value: Any
    #: The option, the variable or the ini key; "" for a default.
    source: str
    #: What a relative path is relative to.
    base: Path


class Option(NamedTuple):
    """One row of the table below."""

    #: The name after ``--cluster-``, ``clusterjobs_`` and ``CLUSTERJOBS_``, with underscores.
    name: str
    #: Turns what was given into the value; raises `pytest.UsageError`.
    parse: Callable[[Given], Any]
    #: For ``--help``: imperative, lower case, no full stop.
    help: str
    #: For ``--help``; "" makes the option a switch.
    metavar: str = ""
    #: The value when nothing was given.
    default: Any = None
    #: The command-line option, where it is not ``--cluster-<name>``; None: there is none.
    flag: str | None = ""


class Values(NamedTuple):
    """What was asked for, checked."""

    #: Names of backends, or words of ``SPECIAL_WORDS``, in order, each once.
    cluster: tuple[str, ...]
    #: Where ``cluster`` was given: ``--cluster``, ``CLUSTERJOBS_CLUSTER``, ``clusterjobs_cluster``, or "".
    cluster_source: str
    #: The backend for ``-m real_world`` alone.
    default: str
    #: "error" or "skip".
    missing: str
    #: Run tests marked expensive.
    run_expensive: bool
    #: Seconds, or None.
    timeout: float | None
    #: Seconds, or None.
    queue_timeout: float | None
    #: At most so many unfinished jobs, or None.
    max_jobs: int | None
    #: "failed", "always" or "never".
    keep: str
    #: Absolute, or "" for the default below the root directory.
    workdir: str
    #: Print the table of backends and end.
    check: bool
    #: Absolute path of the report, or "".
    report: str
    #: Boot throw-away clusters around the run.
    up: bool


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and ini values. Called in every pytest run: it builds strings and nothing else."""
    group = parser.getgroup("cluster jobs", "cluster jobs")
    for option in OPTIONS:
        ini = f"clusterjobs_{option.name}"
        if option.flag is not None:
            text = f"{option.help} (ini: {ini}, environment: {ini.upper()})"
            _add_flag(group, option, text)
        parser.addini(ini, option.help, default=None)


def _add_flag(group: pytest.OptionGroup, option: Option, text: str) -> None:
    flag, dest = option.flag or _flag(option.name), f"clusterjobs_{option.name}"
    if not option.metavar:
        group.addoption(flag, dest=dest, action="store_true", default=None, help=text)
    else:
        action = "append" if option.name == "cluster" else "store"
        group.addoption(flag, dest=dest, action=action, metavar=option.metavar, default=None, help=text)


def _flag(name: str) -> str:
    return "--cluster-" + name.replace("_", "-")


def read(config: pytest.Config) -> Values:
    """Give what was asked for.

    Raises:
        pytest.UsageError: A value is wrong.
    """
    values: dict[str, Any] = {"cluster_source": ""}
    for option in OPTIONS:
        given = _given(config, option)
        values[option.name] = option.default if given is None else option.parse(given)
        if option.name == "cluster" and given is not None:
            values["cluster_source"] = given.source
    return Values(**values)


def _given(config: pytest.Config, option: Option) -> Given | None:
    ini = f"clusterjobs_{option.name}"
    written = getattr(config.option, ini, None)
    if written is not None:
        return Given(written, option.flag or _flag(option.name), config.invocation_params.dir)
    if text := os.environ.get(ini.upper()):
        return Given(text, ini.upper(), config.invocation_params.dir)
    text = config.getini(ini)
    return None if text is None or text == "" else Given(text, ini, config.rootpath)


# ---------------------------------------------------------------- what each value must be


def _wrong(given: Given, problem: str, allowed: tuple[str, ...] = ()) -> NoReturn:
    hint = ""
    if allowed:
        from pytest_clusterjobs.core.naming import nearest

        hint = f"; allowed: {', '.join(allowed)}{nearest(str(given.value), allowed)}"
    raise pytest.UsageError(f"{given.source}: {given.value!r} {problem}{hint}")


def _one_of(allowed: tuple[str, ...]) -> Callable[[Given], str]:
    def parse(given: Given) -> str:
        if given.value not in allowed:
            _wrong(given, "is none of the allowed values", allowed)
        return str(given.value)

    return parse


def _switch(given: Given) -> bool:
    word = str(given.value).strip().lower()
    if word not in _TRUE + _FALSE:
        _wrong(given, "is neither true nor false", _TRUE + _FALSE)
    return word in _TRUE


def _words(given: Given) -> tuple[str, ...]:
    texts = [given.value] if isinstance(given.value, str) else given.value
    words = [word.strip() for text in texts for word in str(text).replace("\n", ",").split(",")]
    if not all(words):
        _wrong(given._replace(value=",".join(map(str, texts))), "has an empty name; write names between commas")
    if "none" in words and len(set(words)) > 1:
        _wrong(given._replace(value=",".join(words)), "mixes 'none' with others; 'none' stands alone")
    return tuple(dict.fromkeys(words))


def _word(given: Given) -> str:
    return str(given.value).strip()


def _duration(given: Given) -> float:
    from pytest_clusterjobs.core.errors import SpecError
    from pytest_clusterjobs.core.units import parse_duration

    try:
        return parse_duration(given.value, given.source)
    except SpecError as error:
        raise pytest.UsageError(str(error)) from None


def _count(given: Given) -> int:
    text = str(given.value).strip()
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        _wrong(given, "is no whole number of 1 or more")
    return int(text)


def _path(given: Given) -> str:
    return os.path.abspath(given.base / os.path.expanduser(str(given.value)))


def _report(given: Given) -> str:
    path = _path(given)
    if os.path.splitext(path)[1] not in REPORT_SUFFIXES:
        _wrong(given, f"has none of the suffixes that we can write: {', '.join(REPORT_SUFFIXES)}")
    return path


OPTIONS: tuple[Option, ...] = (
    Option(
        "cluster",
        _words,
        "run the cluster tests on these backends: names, or auto (all that answer), all (all known), none; "
        "comma-separated, repeatable",
        "NAMES",
        default=(),
        flag="--cluster",
    ),
    Option("default", _word, "backend for `-m real_world` without --cluster", "NAME", default=LOCAL, flag=None),
    Option(
        "missing",
        _one_of(MISSING_POLICIES),
        "what a named backend that does not answer makes of its tests: error (the default) or skip",
        "error|skip",
        default="error",
    ),
    Option("run_expensive", _switch, "run tests marked expensive too", default=False, flag="--run-expensive"),
    Option("timeout", _duration, "limit on the run time of jobs that set none, e.g. 90, 30m, 01:30:00", "DURATION"),
    Option("queue_timeout", _duration, "limit on the wait in the queue of jobs that set none", "DURATION"),
    Option("max_jobs", _count, "at most so many unfinished jobs at once, all workers together", "N"),
    Option(
        "keep",
        _one_of(KEEP_POLICIES),
        "which jobs' directories are kept at the end: those of failed tests (the default), always all, or never any",
        "failed|always|never",
        default="failed",
    ),
    Option(
        "workdir",
        _path,
        "directory for the jobs' files, which the nodes must see under the same name (default: .clusterjobs in the "
        "root directory)",
        "PATH",
        default="",
    ),
    Option("check", _switch, "print which backends answer, and why others do not, and run no test", default=False),
    Option("report", _report, "write a report of the run's tests and jobs to this .json file", "PATH", default=""),
    Option(
        "up",
        _switch,
        "boot a throw-away cluster for the named backends before the run, and take it down",
        default=False,
    ),
)
