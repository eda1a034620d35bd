"""The report as one HTML file that needs nothing else: no network, and scripts only to search and filter.

All rows are there from the start, so that the page says everything where scripts are not allowed to run.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pytest_clusterjobs.core.units import format_duration
from pytest_clusterjobs.reports import digest, usage
from pytest_clusterjobs.reports.model import Job, ReportedTest, RunReport, shorten

_TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")

#: Characters for one failure, and for all of them.
_TEXT_LIMIT, _TEXTS_LIMIT = 20_000, 1_000_000
#: A timeline of at most so many jobs has rows of so many pixels.
_ROW_HEIGHTS = ((60, 26), (500, 8))
_LOWEST_ROW = 4
#: Rows of this height have names.
_NAMED_ROW = 26
_TICKS = 5
_MAX_HINTS = 10


class Row(NamedTuple):
    """One job, as the table and the timeline show it."""

    #: The record.
    job: Job
    #: Id of its test, or "".
    test: str
    #: Why it ended, or "".
    end: str
    #: What it asked for, and what it used.
    requested: str
    used: str
    #: What it used of what it asked for: title, percent.
    shares: tuple[tuple[str, int], ...]
    #: Its bars: kind, beginning and width in percent of the run.
    bars: tuple[tuple[str, float, float], ...]


def render(report: RunReport) -> Iterator[str]:
    """Give the report as the pieces of an HTML file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["duration"] = format_duration
    script = _read("report.js")
    digested = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rows = _rows(report)
    skipped = [test for test in report.tests if test.outcome == "skipped" and (test.is_cluster_test or test.backend)]
    return environment.get_template("report.html").generate(
        report=report,
        counts=digest.counts_text(report),
        backends=digest.by_backend(report),
        rows=rows,
        row_height=next((height for most, height in _ROW_HEIGHTS if len(rows) <= most), _LOWEST_ROW),
        named_row=_NAMED_ROW,
        ticks=_ticks(report),
        failures=_texts(report.failures),
        figures=[(test, digest.figure_text(figure), figure) for test in report.tests for figure in test.figures],
        hints=usage.hint_lines(report.jobs, _MAX_HINTS),
        skipped=digest.reasons(skipped),
        leftovers=digest.leftovers(report),
        duration_s=(report.ended_at - report.started_at).total_seconds(),
        names=_names(rows),
        style=_read("report.css"),
        script=script,
        script_hash=f"sha256-{digested}",
    )


def _read(name: str) -> str:
    with open(os.path.join(_TEMPLATES, name), encoding="utf-8") as file:
        return file.read()


def _rows(report: RunReport) -> list[Row]:
    tests = {job["job_id"]: test.nodeid for test in report.tests for job in test.jobs}
    places = {name: place for place, name in enumerate(dict.fromkeys(job["backend"] for job in report.jobs))}
    ordered = sorted(report.jobs, key=lambda job: (places[job["backend"]], job["metrics"].get("submitted_at") or ""))
    return [
        Row(
            job,
            tests.get(job["job_id"], ""),
            digest.end_text(job),
            digest.requested_text(job),
            digest.used_text(job),
            tuple((name, round(100 * share)) for name, share in digest.shares(job).items()),
            tuple(_bars(report, job)),
        )
        for job in ordered
    ]


def _bars(report: RunReport, job: Job) -> Iterator[tuple[str, float, float]]:
    metrics = job["metrics"]
    submitted, started, ended = (
        datetime.fromisoformat(text) if (text := metrics.get(f"{name}_at")) else None
        for name in ("submitted", "started", "ended")
    )
    # The clock of a node may differ from ours: nothing is drawn outside the run.
    span = max((report.ended_at - report.started_at).total_seconds(), 0.001)

    def place(moment: datetime) -> float:
        return min(max((moment - report.started_at).total_seconds() / span * 100, 0), 100)

    end = place(ended or report.ended_at)
    if submitted is not None:
        begin = place(submitted)
        yield "queue", begin, max((place(started) if started is not None else end) - begin, 0)
    if started is not None:
        begin = place(started)
        yield "run", begin, max(end - begin, 0)


def _ticks(report: RunReport) -> list[tuple[float, str]]:
    duration_s = (report.ended_at - report.started_at).total_seconds()
    return [(100 * tick / _TICKS, format_duration(duration_s * tick / _TICKS)) for tick in range(_TICKS)]


def _texts(tests: Sequence[ReportedTest]) -> list[tuple[ReportedTest, str]]:
    """Give the failed tests with their texts, as long as there is room for these."""
    room, found = _TEXTS_LIMIT, []
    for test in tests:
        text = shorten(test.text, _TEXT_LIMIT)
        room -= len(text)
        found.append((test, text if room >= 0 else ""))
    return found


def _names(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Give what the lists to choose from offer."""
    found = {name: {row.job[name] for row in rows if row.job[name]} for name in ("backend", "state", "reason")}
    return {name: sorted(values) for name, values in found.items()}
