"""Which test runs on which backend, and why not: pure functions of what was asked and what the markers say."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pytest_clusterjobs.plugin.marks import ClusterMarks
from pytest_clusterjobs.plugin.values import LOCAL

if TYPE_CHECKING:
    from pytest_clusterjobs.backends.base import BackendInfo
    from pytest_clusterjobs.core.spec import JobSpec
    from pytest_clusterjobs.plugin.values import Values

#: Marks that ask for a cluster when ``-m`` selects a test by them.
ASKING_MARKS = frozenset({"real_world", "cluster", "expensive"})

NOT_ASKED = "needs a cluster; select with -m real_world or --cluster"
ASKED_NONE = "--cluster=none"
TOO_EXPENSIVE = "expensive; run with --run-expensive or -m expensive"

# More marks than these on one test are tried together only, so that an odd expression cannot take for ever.
_MAX_MARKS_VARIED = 8


class Selection(NamedTuple):
    """What ``--cluster`` means here and now."""

    #: The backends that tests run over, in order; () when nothing was asked, or none.
    names: tuple[str, ...] = ()
    #: Those that were named: they must answer.
    required: frozenset[str] = frozenset()
    #: True for ``auto`` and ``all``: each test's id says its backend, however many there are.
    is_wide: bool = False
    #: True for ``none``.
    is_none: bool = False
    #: For ``auto``: the backends that do not answer, and why.
    absent: Mapping[str, str] = {}
    #: The backend for ``-m real_world`` alone.
    default: str = LOCAL
    #: Profile -> its backend: a marker that names the backend means its profiles too.
    kinds: Mapping[str, str] = {}

    @property
    def is_parametrized(self) -> bool:
        """True when tests are parametrized over the backends."""
        return len(self.names) > 1 or self.is_wide


class Plan(NamedTuple):
    """What becomes of one test."""

    #: It runs on the first of these that answers.
    backends: tuple[str, ...] = ()
    #: Why it does not run; "" when it does.
    skip: str = ""
    #: True: a backend that does not answer is an error. False: it is skipped, with the reason.
    is_required: bool = False


def resolve(
    values: Values,
    known: Collection[str],
    absent_reason: Callable[[str], str],
    kinds: Mapping[str, str] | None = None,
) -> Selection:
    """Give the meaning of ``--cluster``.

    Args:
        values: What was asked for; names in it were checked.
        known: The names of all backends.
        absent_reason: Says why a backend does not answer, "" when it does. Called for ``auto`` alone.
        kinds: Profile -> its backend.
    """
    words, kinds = values.cluster, kinds or {}
    if "none" in words:
        return Selection(is_none=True, default=values.default, kinds=kinds)
    named = tuple(word for word in words if word not in ("auto", "all"))
    names, absent = named, {}
    if "all" in words:
        names = tuple(dict.fromkeys([*named, *known]))
    elif "auto" in words:
        absent = {name: reason for name in known if name not in named and (reason := absent_reason(name))}
        names = tuple(dict.fromkeys([*named, *(name for name in known if name not in absent)]))
    required = frozenset(named) if values.missing == "error" else frozenset()
    return Selection(names, required, len(named) < len(words), False, absent, values.default, kinds)


def candidates(marks: ClusterMarks, selection: Selection) -> tuple[str, ...]:
    """Give the selected backends that a test may run on, in the selection's order."""
    return tuple(name for name in selection.names if _allows(marks, name, selection))


def parameters(marks: ClusterMarks, selection: Selection, *, uses_fixtures: bool) -> tuple[str, ...]:
    """Give the backends over which a test is parametrized; () when it is not.

    Args:
        marks: What its markers say.
        selection: What ``--cluster`` means.
        uses_fixtures: It uses fixtures that depend on the backend.
    """
    if selection.is_parametrized:
        return candidates(marks, selection) if marks.is_cluster_test or uses_fixtures else ()
    # Without --cluster, tests pinned to different backends run in one session: the session-scoped fixture must tell
    # them apart.
    return marks.pins if not selection.names and uses_fixtures and len(marks.pins) == 1 else ()


def plan(
    marks: ClusterMarks,
    selection: Selection,
    *,
    expression: str = "",
    own: Collection[str] = (),
    runs_expensive: bool = False,
    uses_fixtures: bool = False,
    parameter: str | None = None,
) -> Plan:
    """Decide about a test that has one of our markers, is decorated, or uses our fixtures.

    Args:
        marks: What its markers say.
        selection: What ``--cluster`` means.
        expression: ``-m``, which is taken to select the test.
        own: Names of all its marks.
        runs_expensive: ``--run-expensive``.
        uses_fixtures: It uses fixtures that depend on the backend.
        parameter: The backend that it is parametrized with, or None.
    """
    planned = Plan()
    if marks.is_cluster_test or uses_fixtures:
        asked_by_mark = asks(expression, ASKING_MARKS, own)
        planned = _plan_backend(marks, selection, asked_by_mark=asked_by_mark, parameter=parameter)
    if marks.is_expensive and not planned.skip and not (runs_expensive or asks(expression, {"expensive"}, own)):
        return Plan(skip=TOO_EXPENSIVE)
    return planned


def _plan_backend(marks: ClusterMarks, selection: Selection, *, asked_by_mark: bool, parameter: str | None) -> Plan:
    if marks.is_cluster_test and selection.is_none:
        return Plan(skip=ASKED_NONE)
    if selection.names or selection.absent:
        return _plan_selected(marks, selection, parameter)
    if marks.is_cluster_test and not asked_by_mark:
        return Plan(skip=NOT_ASKED)
    fallback = selection.default if marks.is_cluster_test else LOCAL
    wanted = (parameter,) if parameter else marks.pins or (fallback,)
    allowed = tuple(name for name in wanted if not _means(name, selection).intersection(marks.excluded))
    if not allowed:
        return Plan(skip=f"not for {', '.join(wanted)} (no_cluster); name another backend with --cluster")
    return Plan(allowed)


def _plan_selected(marks: ClusterMarks, selection: Selection, parameter: str | None) -> Plan:
    possible = candidates(marks, selection)
    if parameter is not None:
        possible = (parameter,) if _allows(marks, parameter, selection) else ()
    if possible:
        return Plan(possible[:1], is_required=possible[0] in selection.required)
    return Plan(skip=_why_none(marks, selection))


def _why_none(marks: ClusterMarks, selection: Selection) -> str:
    wanted = [name for name in marks.pins if name not in marks.excluded]
    silent = {name: reason for name, reason in selection.absent.items() if not marks.pins or name in wanted}
    if silent:
        return "; ".join(f"{name}: {reason}" for name, reason in silent.items())
    if wanted:
        return f"pinned to {' or '.join(wanted)}; try --cluster={','.join(wanted)}"
    return f"not for {', '.join(sorted(marks.excluded))} (no_cluster)"


def _allows(marks: ClusterMarks, name: str, selection: Selection) -> bool:
    words = _means(name, selection)
    return not words.intersection(marks.excluded) and (not marks.pins or bool(words.intersection(marks.pins)))


def _means(name: str, selection: Selection) -> set[str]:
    """Give the names in markers that mean a backend or profile: its own, and its backend's."""
    return {name, selection.kinds.get(name, name)}


def lacking(name: str, spec: JobSpec, info: BackendInfo) -> str:
    """Say what a backend is known not to have of what a test asks for; "" when nothing, or when nobody knows."""
    if spec.gpus and info.gpus is not None and spec.gpus * spec.nodes > info.gpus:
        has = f"{info.gpus} GPU{'s' if info.gpus > 1 else ''}" if info.gpus else "no GPU"
        return f"{name} has {has}; the test asks for {spec.gpus * spec.nodes}"
    if info.nodes is not None and spec.nodes > info.nodes:
        return f"{name} has {info.nodes} node{'s' if info.nodes != 1 else ''}; the test asks for {spec.nodes}"
    there = [partition.name for partition in info.partitions]
    wanted = spec.partition.split(",") if spec.partition else []
    if there and wanted and not set(wanted) & set(there):  # one of several is enough for sbatch(1)
        return f"{name} has no partition {spec.partition!r}; there are: {', '.join(there)}"
    return ""


def asks(expression: str, wanted: Collection[str], own: Iterable[str]) -> bool:
    """Tell whether a ``-m`` expression that selects a test does so because of one of its marks.

    True when, beside some of the test's other marks, those of ``wanted`` make the difference between selected and not:
    ``real_world and not slow`` asks for a test with ``real_world``; ``slow`` and ``not real_world`` ask for none.

    Args:
        expression: The expression; a wrong one asks for nothing, and pytest itself complains of it.
        wanted: Marks that would be the cause.
        own: Names of the test's marks.
    """
    mine = {name for name in own if name in expression}
    cause = mine.intersection(wanted)
    if not cause:
        return False
    selects = _evaluator(expression)
    others = sorted(mine - cause)
    sizes = range(len(others) + 1) if len(others) <= _MAX_MARKS_VARIED else (0, len(others))
    return any(
        selects({*beside, *cause}) and not selects(beside)
        for size in sizes
        for beside in itertools.combinations(others, size)
    )


def mentions(expression: str, wanted: Collection[str]) -> bool:
    """Tell whether a ``-m`` expression can select any test because of one of these marks."""
    return asks(expression, wanted, re.findall(r"[\w:.+-]+", expression))


def _evaluator(expression: str) -> Callable[[Collection[str]], bool]:
    # pytest evaluates -m in there, and there is no public way to it.
    from _pytest.mark.expression import Expression

    try:
        compiled = Expression.compile(expression)
    except Exception:  # its type differs between pytest 8 and 9, and pytest reports it better than we could
        return lambda _: False
    return lambda names: compiled.evaluate(lambda name, /, **_: name in names)
