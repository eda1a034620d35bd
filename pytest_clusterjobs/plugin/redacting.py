"""Takes secrets out of what pytest reports: errors, locals, captured output and logs, properties, warnings.

Where a test runs: a worker of pytest-xdist knows its own secrets, and the controller none.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any

import pytest

from pytest_clusterjobs.core.redaction import known, redact, redact_all

# A test is found again by its id and its place.
_KEPT = frozenset({"nodeid", "location", "keywords", "when", "outcome"})


class Redacting:
    """The hooks, the outermost of their kind: what others add to a report is redacted too."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Redact a report before anybody has seen it."""
        report = yield
        if known():
            for name, value in vars(report).items():
                if name not in _KEPT:
                    setattr(report, name, _redacted(value))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Redact a warning for pytest's summary."""
        text = str(warning_message.message)
        told = redact(text)
        if told != text:
            warning_message.message = told


def _redacted(value: Any) -> Any:
    """Give a part of a report without secrets; what pytest shows a traceback with is changed where it is."""
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    if type(value) is tuple:
        return tuple(map(_redacted, value))
    if type(value).__module__.startswith("_pytest._code"):
        for name, item in vars(value).items():
            setattr(value, name, _redacted(item))
        return value
    return redact_all(value)
