"""What is compared when a job is validated: pure functions from what is known of a job to checks."""

from __future__ import annotations

import fnmatch
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from pytest_clusterjobs.backends.base import Capability, Expectation
from pytest_clusterjobs.core.errors import UsageError
from pytest_clusterjobs.core.record import FROM_HERE, JobMetrics, JobRecord, Transition
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.core.validation import Check, CheckVerdict

# Schedulers count memory in whole MiB, for each core on some, and time in whole minutes on some.
_GRAIN_BYTES = 2**20
# A kernel's control group counts whole pages, rounded down; the largest common page of Linux.
_PAGE_BYTES = 2**16
_GRAIN_S = 60.0
# Clocks of nodes may differ from ours by so much before it is worth a word.
_SKEW_S = 2.0

_NEXT: dict[JobState, frozenset[JobState]] = {
    JobState.NEW: frozenset(JobState) - {JobState.NEW},
    JobState.PENDING: frozenset(JobState) - {JobState.NEW, JobState.PENDING},
    JobState.RUNNING: frozenset(JobState) - {JobState.NEW, JobState.RUNNING},
    JobState.UNKNOWN: frozenset(JobState) - {JobState.NEW, JobState.UNKNOWN},
}

_NUMBERS = (int, float, complex)

#: Files, not variables, that ``start.json`` lists the lines of, by the name under which a contract speaks of them.
PSEUDO_VARIABLES = frozenset({"namespace"})


# ---------------------------------------------------------------- submission and states


def submission(record: JobRecord) -> list[Check]:
    """Compare a job as its scheduler knows it with what was submitted."""
    if not record.native_id:
        why = record.detail or "it has not been submitted yet"
        return [Check("accepted", CheckVerdict.MISMATCH, "a native id", why=why)]
    checks = [Check("accepted", CheckVerdict.HONOURED, "a native id", record.native_id)]
    if not record.seen_as:
        why = "it ended before a bulk query was due"
        return [*checks, Check("name", CheckVerdict.UNKNOWN, record.submitted_as, why=why)]
    verdict = CheckVerdict.HONOURED if record.seen_as == record.submitted_as else CheckVerdict.MISMATCH
    return [*checks, Check("name", verdict, record.submitted_as, record.seen_as)]


def queued(record: JobRecord) -> list[Check]:
    """Compare what a job asked for with what its scheduler's queue counts for it."""
    if record.queued is None:
        return [Check("resources", CheckVerdict.UNKNOWN, why="no bulk query has told the job's resources")]
    return _quantities(record.metrics.requested, record.queued, Resources())


def states(history: Sequence[Transition], restarts: int) -> list[Check]:
    """Check that a job's states came in an order that a job can go through, and its times too."""
    names = " > ".join(state for state, _ in itertools.groupby(each.state.value for each in history)) or "none"
    before, wrong = JobState.NEW, ""
    for each in history:
        if each.state is not before and each.state not in _NEXT.get(before, frozenset()):
            wrong = wrong or f"{each.state} after {before}"
        before = each.state
    found = [Check("states", CheckVerdict.MISMATCH if wrong else CheckVerdict.HONOURED, observed=names, why=wrong)]
    here = [each.at for each in history if each.source == FROM_HERE]
    if any((earlier - later).total_seconds() > _SKEW_S for earlier, later in itertools.pairwise(here)):
        found.append(Check("times", CheckVerdict.MISMATCH, why="a state was seen before the one that it followed"))
    returns = sum(
        (earlier.state, later.state) == (JobState.RUNNING, JobState.PENDING)
        for earlier, later in itertools.pairwise(history)
    )
    if returns > restarts:
        why = "the scheduler counts fewer starts than were seen"
        found.append(Check("restarts", CheckVerdict.MISMATCH, None, restarts, returns, why, is_tolerated=True))
    return found


def times(metrics: JobMetrics) -> list[Check]:
    """Check that a job's clock agrees with ours: its start lies after its submission, its end before now."""
    if metrics.submitted_at is None or metrics.started_at is None:
        return []
    early_s = (metrics.submitted_at - metrics.started_at).total_seconds()
    if early_s <= _SKEW_S:
        return []
    why = f"the node's clock is {early_s:.0f} s behind ours, or the job started before we knew"
    return [Check("clock", CheckVerdict.MISMATCH, why=why, is_tolerated=True)]


# ---------------------------------------------------------------- environment


def environment(
    expected: Mapping[str, Expectation],
    start: Mapping[str, Any],
    required: Mapping[str, str | None],
    given: Mapping[str, str],
) -> list[Check]:
    """Compare what a job found in its environment with its backend's contract and with what a test requires.

    Args:
        expected: The contract, by variable.
        start: What the job wrote at its start; {} when it left nothing.
        required: Variables that must be there, each with the value that it must have, or None for any.
        given: What the job was given with ``env``.
    """
    if not start:
        return [Check("environment", CheckVerdict.UNKNOWN, why="the job left no word of its start")]
    told, files = start.get("environment") or {}, start.get("files") or {}
    there = {*told, *files}
    checks = [
        _variable(name, each, told, files) for name, each in expected.items() if name in there or not each.is_optional
    ]
    return checks + [_required(name, value, start, given.get(name)) for name, value in required.items()]


def _variable(name: str, expected: Expectation, told: Mapping[str, str], files: Mapping[str, Sequence[str]]) -> Check:
    value = "\n".join(files[name]) if name in PSEUDO_VARIABLES and name in files else told.get(name)
    wanted = expected.value if expected.pattern is None else f"like {expected.pattern}"
    if value is None:
        return Check(name, CheckVerdict.MISMATCH, wanted, None, "not set", expected.source)
    if expected.value is not None and value != expected.value:
        return Check(name, CheckVerdict.MISMATCH, wanted, None, value, expected.source)
    if expected.pattern is not None and not re.fullmatch(expected.pattern, value):
        return Check(name, CheckVerdict.MISMATCH, wanted, None, value, expected.source)
    if expected.lines is None and expected.slots is None:
        return Check(name, CheckVerdict.HONOURED, wanted, None, value)
    return _listing(name, expected, value, files.get(name))


def _listing(name: str, expected: Expectation, path: str, lines: Sequence[str] | None) -> Check:
    if lines is None:
        return Check(name, CheckVerdict.MISMATCH, None, None, path, "the job sees no such file")
    if expected.slots is not None:
        what, wanted = "slots", expected.slots
        count = sum(int(words[1]) for line in lines if len(words := line.split()) > 1 and words[1].isdigit())
    else:
        what, wanted = "lines", expected.lines or 0
        count = sum(bool(line.strip()) for line in lines)
    verdict = CheckVerdict.HONOURED if count == wanted else CheckVerdict.MISMATCH
    return Check(name, verdict, f"{wanted} {what}", None, f"{count} {what}", expected.source)


def _required(name: str, value: str | None, start: Mapping[str, Any], given: str | None) -> Check:
    told, names = start.get("environment") or {}, start.get("variables") or ()
    if name not in told and name not in names:
        return Check(name, CheckVerdict.MISMATCH, value, None, "not set", "the test requires it")
    if value is None:
        return Check(name, CheckVerdict.HONOURED, None, None, "set")
    if name not in told and given is None:
        why = "only the values of schedulers' variables and of env are known: have the job return it"
        return Check(name, CheckVerdict.UNKNOWN, value, why=why)
    if name not in told:  # its value is shown to nobody: it may be a secret
        is_same = given == value
        why = "" if is_same else "env gives it another value"
        return Check(name, CheckVerdict.HONOURED if is_same else CheckVerdict.MISMATCH, value, None, "set", why)
    verdict = CheckVerdict.HONOURED if told[name] == value else CheckVerdict.MISMATCH
    return Check(name, verdict, value, None, told[name], "" if told[name] == value else "the test requires it")


# ---------------------------------------------------------------- resources


def resources(
    metrics: JobMetrics, capabilities: Collection[Capability], threads_per_core: int, *, may_exceed: bool
) -> list[Check]:
    """Compare what was asked for with what was given and with what the job found.

    Args:
        metrics: The job's.
        capabilities: What its backend can do: what it cannot, it does not promise.
        threads_per_core: Hardware threads of a core of its node: schedulers that give whole cores give all of them.
        may_exceed: More cores, GPUs or nodes than asked for are no failure.
    """
    checks = _quantities(
        metrics.requested, metrics.allocated, metrics.observed, threads_per_core, may_exceed=may_exceed
    )
    kept = []
    for check in checks:
        needed = _NEEDS.get(check.name)
        if needed is not None and needed not in capabilities:
            check = Check(check.name, CheckVerdict.UNKNOWN, check.requested, why=f"the backend has no {needed.value}")
        kept.append(check)
    return kept


_NEEDS = {"partition": Capability.PARTITIONS, "time limit": Capability.TIME_LIMIT, "memory": Capability.MEMORY_LIMIT}


def _quantities(
    asked: Resources, given: Resources, seen: Resources, threads: int = 1, *, may_exceed: bool = False
) -> list[Check]:
    whole_cores = -(-(asked.cores or 1) // threads) * threads - (asked.cores or 1)
    grain = _GRAIN_BYTES * (asked.cores or 1)
    checks = [
        _quantity("cores", asked.cores, given.cores, seen.cores, whole_cores, harms=not may_exceed),
        _quantity(
            "memory", asked.memory_bytes, given.memory_bytes, seen.memory_bytes, grain, harms=False, lack=_PAGE_BYTES
        ),
        _quantity("gpus", asked.gpus or None, given.gpus, seen.gpus, 0, harms=not may_exceed),
        _quantity("nodes", asked.nodes, given.nodes, None, 0, harms=not may_exceed),
        _quantity("time limit", asked.time_limit_s, given.time_limit_s, None, _GRAIN_S, harms=False),
        _partition(asked.partition, given.partition),
    ]
    return [check for check in checks if check is not None]


def _quantity(
    name: str,
    asked: float | None,
    given: float | None,
    seen: float | None,
    slack: float,
    *,
    harms: bool,
    lack: float = 0,
) -> Check | None:
    """Compare one quantity; up to ``slack`` more is no more, and less than ``lack`` less on the node no less.

    None where nothing was asked for.
    """
    if asked is None:
        return None
    values = (asked, given, seen)
    if given is not None and given < asked:
        return Check(name, CheckVerdict.SHORT, *values, "the scheduler gave less")
    if seen is not None and seen < asked and seen <= asked - lack:
        return Check(name, CheckVerdict.SHORT, *values, "the job can use less")
    if given is not None and given > asked + slack:
        return Check(name, CheckVerdict.EXCEEDED, *values, "the scheduler gave more", not harms)
    if given is None and seen is None:
        return Check(name, CheckVerdict.UNKNOWN, *values, "neither the scheduler nor the node says")
    if seen is not None and seen > asked + slack:
        why = "no limit on the node holds the job to it"
        return Check(name, CheckVerdict.HONOURED if given is not None else CheckVerdict.EXCEEDED, *values, why, True)
    return Check(name, CheckVerdict.HONOURED, *values)


def _partition(asked: str | None, given: str | None) -> Check | None:
    if asked is None:
        return None
    if given is None:
        return Check("partition", CheckVerdict.UNKNOWN, asked, why="the scheduler does not say")
    # Several may be named, of which one is taken; Grid Engine takes patterns and hosts too: all.q@node1.
    is_one = any(fnmatch.fnmatchcase(given, each.partition("@")[0]) for each in asked.split(","))
    return Check("partition", CheckVerdict.HONOURED if is_one else CheckVerdict.MISMATCH, asked, given)


# ---------------------------------------------------------------- output


def value(found: Any, wanted: Any, tolerance: float) -> Check:
    """Compare a job's value with the expected one; numbers up to a relative tolerance, inside containers too."""
    is_same = is_close(found, wanted, tolerance)
    why = "" if is_same else "another value" + (f", also with a tolerance of {tolerance:g}" if tolerance else "")
    return Check("value", CheckVerdict.HONOURED if is_same else CheckVerdict.MISMATCH, wanted, None, found, why)


def is_close(found: Any, wanted: Any, tolerance: float) -> bool:
    """Tell whether two values are equal; numbers in them may differ by a part of the expected one.

    Arrays are compared as their ``tolist`` gives them; not-a-number equals itself.
    """
    found, wanted = (each.tolist() if callable(getattr(each, "tolist", None)) else each for each in (found, wanted))
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return wanted.keys() == found.keys() and all(is_close(found[key], wanted[key], tolerance) for key in wanted)
    if isinstance(wanted, (list, tuple)) and type(wanted) is type(found):
        pairs = zip(found, wanted, strict=False)
        return len(found) == len(wanted) and all(is_close(one, other, tolerance) for one, other in pairs)
    if isinstance(wanted, _NUMBERS) and isinstance(found, _NUMBERS) and not isinstance(wanted, bool):
        return found == wanted or (found != found and wanted != wanted) or _is_near(found, wanted, tolerance)
    return bool(found == wanted)


def _is_near(found: Any, wanted: Any, tolerance: float) -> bool:
    from fractions import Fraction

    if isinstance(found, int) and isinstance(wanted, int):  # of any size
        return abs(found - wanted) <= Fraction(tolerance) * abs(wanted)
    try:
        return bool(abs(found - wanted) <= tolerance * abs(wanted) < math.inf)
    except OverflowError:  # an integer beyond all floating-point numbers
        return False


def predicate(found: Any, test: Callable[[Any], object]) -> Check:
    """Ask a predicate about a job's value."""
    name = getattr(test, "__name__", repr(test))
    is_true = bool(test(found))
    why = "" if is_true else f"{name} is not true of it"
    return Check("predicate", CheckVerdict.HONOURED if is_true else CheckVerdict.MISMATCH, name, None, found, why)


def files(
    wanted: Mapping[str, str | bytes | Callable[[bytes], object] | None],
    contents: Mapping[str, bytes | Exception | None],
) -> Iterator[Check]:
    """Compare files with what they must hold.

    Args:
        wanted: By path: a text or bytes that the file must be, a predicate of its bytes, or None: it must be there.
        contents: By path: what it holds, None where there is none, or why it cannot be known: a call that the backend
            has no way to answer is unknown, and what is there and cannot be read is not what was wanted.
    """
    for path, want in wanted.items():
        data = contents[path]
        if isinstance(data, Exception):
            verdict = CheckVerdict.UNKNOWN if isinstance(data, UsageError) else CheckVerdict.MISMATCH
            yield Check(path, verdict, "a file", why=str(data))
        elif data is None:
            yield Check(path, CheckVerdict.MISMATCH, "a file", None, "none", "the job left no such file")
        elif want is None:
            yield Check(path, CheckVerdict.HONOURED, "a file", None, f"{len(data)} bytes")
        elif callable(want):
            is_true = bool(want(data))
            why = "" if is_true else "the predicate is not true of it"
            verdict = CheckVerdict.HONOURED if is_true else CheckVerdict.MISMATCH
            yield Check(path, verdict, getattr(want, "__name__", repr(want)), None, f"{len(data)} bytes", why)
        else:
            expected = want.encode() if isinstance(want, str) else want
            verdict = CheckVerdict.HONOURED if data == expected else CheckVerdict.MISMATCH
            yield Check(path, verdict, repr(expected), None, repr(data))
