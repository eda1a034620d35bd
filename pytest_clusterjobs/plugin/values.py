"""What was asked for by options, ini values and variables, checked.

A wrong value is a `pytest.UsageError` that names the place it came from, the allowed values and the nearest of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest

from pytest_clusterjobs.plugin.options import given

if TYPE_CHECKING:
    from pathlib import Path

#: Where a job goes when nothing says where.
LOCAL = "local"
#: Words of ``--cluster`` that are no backend's name.
SPECIAL_WORDS = ("auto", "all", "none")
MISSING_POLICIES = ("error", "skip")
KEEP_POLICIES = ("failed", "always", "never")
REPORT_SUFFIXES = (".json", ".md", ".html")

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class Given(NamedTuple):
    """A value and where it was given."""

    #: As it was written; a list for an option that may be repeated.
    value: Any
    #: The option, the variable or the ini key; "" for a default.
    source: str
    #: What a relative path is relative to.
    base: Path


class Values(NamedTuple):
    """What was asked for, checked."""

    #: Names of backends, or words of ``SPECIAL_WORDS``, in order, each once.
    cluster: tuple[str, ...] = ()
    #: Where ``cluster`` was given: ``--cluster``, ``CLUSTERJOBS_CLUSTER``, ``clusterjobs_cluster``, or "".
    cluster_source: str = ""
    #: The backend for ``-m real_world`` alone.
    default: str = LOCAL
    #: "error" or "skip".
    missing: str = "error"
    #: Run tests marked expensive.
    run_expensive: bool = False
    #: Seconds, or None.
    timeout: float | None = None
    #: Seconds, or None.
    queue_timeout: float | None = None
    #: At most so many unfinished jobs, or None.
    max_jobs: int | None = None
    #: "failed", "always" or "never".
    keep: str = "failed"
    #: Absolute, or "" for the default below the root directory.
    workdir: str = ""
    #: Print the table of backends and end.
    check: bool = False
    #: Absolute path of the matrix for CI, or "".
    matrix: str = ""
    #: Absolute paths of the reports, in order, each once.
    report: tuple[str, ...] = ()
    #: How many runs of a project are remembered; 0 for none.
    history: int = 200
    #: Absolute path of the file of references, or "".
    baseline: str = ""
    #: Write that file.
    baseline_update: bool = False
    #: Validate every job of every test.
    validate: bool = False
    #: Boot throw-away clusters around the run.
    up: bool = False
    #: Where each of these that was given comes from.
    sources: Mapping[str, str] = {}


def read(config: pytest.Config) -> Values:
    """Give what was asked for.

    Raises:
        pytest.UsageError: A value is wrong.
    """
    found = {name: Given(*each) for name, each in given(config).items()}
    parsed = {name: _PARSERS[name](each) for name, each in found.items()}
    source = found["cluster"].source if "cluster" in found else ""
    sources = {name: each.source for name, each in found.items()}
    if parsed.get("baseline_update") and "baseline" not in parsed:
        raise pytest.UsageError(f"{sources['baseline_update']}: no file is named; write --cluster-baseline=FILE too")
    return Values(**{"cluster_source": source, "sources": sources, **parsed})


# ---------------------------------------------------------------- what each value must be


def _wrong(given: Given, problem: str, allowed: tuple[str, ...] = (), word: str | None = None) -> NoReturn:
    """Refuse a value. The nearest of what is allowed is looked for to the whole value, or to a word of it."""
    hint = ""
    if allowed:
        from pytest_clusterjobs.core.naming import nearest

        hint = f"; allowed: {', '.join(allowed)}{nearest(str(given.value) if word is None else word, allowed)}"
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


def _history(given: Given) -> int:
    text = str(given.value).strip()
    if not text.isascii() or not (text.isdigit() or text == "off"):
        _wrong(given, "is neither a number of runs nor off")
    return 0 if text == "off" else int(text)


def _path(given: Given) -> str:
    return os.path.abspath(given.base / os.path.expanduser(str(given.value)))


def _reports(given: Given) -> tuple[str, ...]:
    names = re.split("[,\n]", given.value) if isinstance(given.value, str) else given.value
    named = [given._replace(value=name.strip()) for name in names if name.strip()]
    for each in named:
        suffix = os.path.splitext(each.value)[1]
        if suffix not in REPORT_SUFFIXES:
            _wrong(each, "has none of the suffixes that reports have", REPORT_SUFFIXES, suffix)
    return tuple(dict.fromkeys(_path(each) for each in named))


_PARSERS: dict[str, Callable[[Given], Any]] = {
    "cluster": _words,
    "default": _word,
    "missing": _one_of(MISSING_POLICIES),
    "run_expensive": _switch,
    "timeout": _duration,
    "queue_timeout": _duration,
    "max_jobs": _count,
    "keep": _one_of(KEEP_POLICIES),
    "workdir": _path,
    "check": _switch,
    "matrix": _path,
    "report": _reports,
    "history": _history,
    "baseline": _path,
    "baseline_update": _switch,
    "validate": _switch,
    "up": _switch,
}
