"""What a validation found: `Check`, `ValidationResult`, `JobFailure`. Data only; the engine's validator makes them."""

from __future__ import annotations

import enum
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_clusterjobs.core.record import JobMetrics, Transition
from pytest_clusterjobs.core.state import ExitReason
from pytest_clusterjobs.core.units import format_duration, format_memory


class CheckVerdict(str, enum.Enum):
    """How something that was asked for compares with what there was."""

    #: As asked for.
    HONOURED = "honoured"
    #: More than asked for.
    EXCEEDED = "exceeded"
    #: Less than asked for.
    SHORT = "short"
    #: Something else than asked for or expected.
    MISMATCH = "mismatch"
    #: Nobody knows; the check says why.
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


_DEVIATIONS = frozenset({CheckVerdict.EXCEEDED, CheckVerdict.SHORT, CheckVerdict.MISMATCH})
_FORMATS = {"memory": format_memory, "time limit": format_duration}
_MAX_VALUE = 60
_HEAD = ("check", "requested", "allocated", "observed", "verdict")


class _Short(reprlib.Repr):
    """Looks at the first few items only, for a job's value may be large."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _MAX_VALUE

    def repr_int(self, x: int, level: int) -> str:
        """Give a number; of one with thousands of digits its size, which Python would raise an error for."""
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"<a number of {x.bit_length()} bits>"


_SHORT = _Short()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared."""

    #: What: ``cores``, ``memory`` (bytes), ``time limit`` (seconds), a variable's name, ``output``.
    name: str
    #: How it came out.
    verdict: CheckVerdict
    #: What was asked for or expected; None for nothing in particular.
    requested: Any = None
    #: What the scheduler says that it gave; None where it does not say.
    allocated: Any = None
    #: What the job itself found; None where it cannot know.
    observed: Any = None
    #: Why, in words.
    why: str = ""
    #: True: a deviation that harms nobody, and only warns.
    is_tolerated: bool = False

    @property
    def is_failure(self) -> bool:
        """True when it is a deviation that is not tolerated."""
        return self.verdict in _DEVIATIONS and not self.is_tolerated

    @property
    def is_warning(self) -> bool:
        """True when it is a tolerated deviation."""
        return self.verdict in _DEVIATIONS and self.is_tolerated

    def cells(self) -> tuple[str, ...]:
        """Give the texts of its row in a table: name, requested, allocated, observed, verdict and why."""
        verdict = f"{self.verdict}: {self.why}" if self.why else str(self.verdict)
        values = (self.requested, self.allocated, self.observed)
        return (self.name, *(self._text(value) for value in values), verdict)

    def _text(self, value: Any) -> str:
        if value is None:
            return "-"
        if self.name in _FORMATS:
            return _FORMATS[self.name](value)
        text = value if isinstance(value, str) else _SHORT.repr(value)
        return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 3]}..."

    def __str__(self) -> str:
        name, requested, allocated, observed, verdict = self.cells()
        return f"{name}: requested {requested}, allocated {allocated}, observed {observed}: {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON types."""
        values = {"requested": self.requested, "allocated": self.allocated, "observed": self.observed}
        plain = {name: value if _is_plain(value) else self._text(value) for name, value in values.items()}
        return {"name": self.name, "verdict": self.verdict.value, **plain, "why": self.why or None}


def _is_plain(value: Any) -> bool:
    """Tell whether a value is one that JSON has: not-a-number, infinity and the longest integers are not."""
    return value is None or (isinstance(value, (int, float)) and abs(value) <= sys.float_info.max)


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job ended without success, in the words of `ClusterJobValidator.classify_error`."""

    #: The reason in the job's record.
    reason: ExitReason
    #: The kind, of ``FAILURE_CATEGORIES``.
    category: str
    #: One line for people.
    text: str
    #: True: the cluster's trouble, not the job's code.
    is_infrastructure: bool = False
    #: Who cancelled it: "us", what the scheduler says of somebody else, or "" when nobody did.
    cancelled_by: str = ""
    #: Name of the exception's type that its function raised, or "".
    exception_type: str = ""
    #: Its exit code, where there is one.
    exit_code: int | None = None
    #: The signal that ended it, where one did.
    signal: int | None = None

    def __str__(self) -> str:
        return self.text


_CATEGORY_OF = {
    ExitReason.RUN_TIMEOUT: "timeout",
    ExitReason.DEADLINE: "timeout",
    ExitReason.NEVER_STARTS: "queue_timeout",
    ExitReason.CANCELLED_OUTSIDE: "cancelled",
    ExitReason.DEPENDENCY_FAILED: "cancelled",
    ExitReason.LAUNCH_FAILURE: "infrastructure",
    ExitReason.RESULT_UNPICKLABLE: "exception",
}


def category_of(reason: ExitReason) -> str:
    """Give the kind of failure that a reason is."""
    return _CATEGORY_OF.get(reason, reason.value)


#: The kinds of failure.
FAILURE_CATEGORIES: tuple[str, ...] = tuple(dict.fromkeys(category_of(reason) for reason in ExitReason))


@dataclass(frozen=True, slots=True, repr=False)
class ValidationResult:
    """What a validation of one job found. True when nothing failed; its text is a table of what did."""

    #: The job's name.
    job: str
    #: Name of the backend or profile that ran it.
    backend: str
    #: Everything that was compared.
    checks: tuple[Check, ...]
    #: What was measured of the job.
    metrics: JobMetrics
    #: The job's states, each with its time and the scheduler's word.
    history: tuple[Transition, ...] = ()
    #: Why the job ended without success, or None.
    failure: JobFailure | None = None

    @property
    def success(self) -> bool:
        """True when no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.is_failure)

    @property
    def errors(self) -> tuple[str, ...]:
        """A line for each check that failed."""
        return tuple(str(check) for check in self.checks if check.is_failure)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each deviation that is tolerated."""
        return tuple(str(check) for check in self.checks if check.is_warning)

    def check(self, name: str) -> Check:
        """Give the check of a name.

        Raises:
            KeyError: There is none; the message has those that there are.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there are: {', '.join(check.name for check in self.checks) or 'none'}")

    def table(self) -> str:
        """Give the table of all checks."""
        return "\n".join(_rows(self.checks))

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON types: how many checks there were, and those that deviate."""
        return {
            "success": self.success,
            "checks": len(self.checks),
            "unknown": [check.name for check in self.checks if check.verdict is CheckVerdict.UNKNOWN],
            "failed": [check.to_dict() for check in self.failed],
            "warnings": [check.to_dict() for check in self.checks if check.is_warning],
        }

    def __bool__(self) -> bool:
        return self.success

    def __str__(self) -> str:
        summary = f"{self.job} on {self.backend}: {self._count()}"
        return "\n".join([summary, *_rows(self.failed)]) if self.failed else summary

    def __repr__(self) -> str:
        names = ", ".join(f"{check.name} {check.verdict}" for check in self.failed)
        return f"<ValidationResult {self.job}: {self._count()}{f': {names}' if names else ''}>"

    def _count(self) -> str:
        unknown = sum(check.verdict is CheckVerdict.UNKNOWN for check in self.checks)
        more = f", {unknown} cannot be known" if unknown else ""
        return f"{len(self.failed)} of {len(self.checks)} checks failed{more}"


def _rows(checks: Sequence[Check]) -> list[str]:
    table = [_HEAD, *(check.cells() for check in checks)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD) - 1)]
    return [
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in table
    ]
