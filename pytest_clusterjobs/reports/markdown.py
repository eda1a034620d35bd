"""The report as Markdown, in GitHub's dialect: for the summary of a CI job, a comment, or a file.

GitHub shows at most 1 MiB for each step ("Adding a job summary", docs.github.com, 2026), and nothing of a longer one.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_clusterjobs.core.units import format_duration
from pytest_clusterjobs.reports import digest, usage
from pytest_clusterjobs.reports.model import Job, ReportedTest, RunReport, shorten

#: Of a step's summary, in bytes.
LIMIT_BYTES = 1024 * 1024

_TEXT_LIMIT = 20_000
_MAX_JOBS = 10
_MAX_LISTED = 50


def render(report: RunReport, limit_bytes: int = LIMIT_BYTES) -> str:
    """Give the report as Markdown of at most ``limit_bytes`` of UTF-8.

    What is too long is shortened from the end of the failures on: first their logs, then their lines. "" where not even
    the rest has room.
    """
    head = "\n".join(_head(report)) + "\n"
    tail = "\n".join(_tail(report)) + "\n"
    room = limit_bytes - _size(head) - _size(tail)
    return "" if room < 0 else head + "".join(_failures(report.failures, room)) + tail


def _size(text: str) -> int:
    return len(text.encode())


def _head(report: RunReport) -> Iterator[str]:
    yield f"## Cluster jobs: {digest.counts_text(report)}\n"
    moment = report.started_at.strftime("%Y-%m-%d %H:%M:%S")
    duration = format_duration((report.ended_at - report.started_at).total_seconds())
    yield f"Run `{report.run_id}`, {moment} UTC, {duration}\n"
    backends = digest.by_backend(report)
    if backends:
        titles = ("backend", "ran", "failed", "errors", "skipped", "jobs", "queued", "ran for")
        yield from _table(titles, [_backend_row(backend) for backend in backends])
    yield from (f"- {_inline(hint)}" for hint in usage.hint_lines(report.jobs, _MAX_JOBS))
    silent = [backend for backend in report.backends if not backend.is_available]
    yield from (f"- {_inline(backend.name)} does not answer: {_inline(backend.reason)}" for backend in silent)
    figures = [(test, figure) for test in report.tests for figure in test.figures]
    if figures:
        yield "\n### Performance\n"
        rows = [
            (_code(test.nodeid), _inline(test.backend or ""), _inline(digest.figure_text(figure)), _verdict(figure))
            for test, figure in figures[:_MAX_LISTED]
        ]
        yield from _table(("test", "backend", "figure", ""), rows)


def _verdict(figure: Mapping[str, Any]) -> str:
    return "" if figure["passed"] is None else "✅" if figure["passed"] else "❌"


def _backend_row(backend: digest.BackendDigest) -> tuple[str, ...]:
    outcomes = backend.outcomes
    counts = (backend.ran, *(outcomes[word] for word in ("failed", "error", "skipped")), len(backend.jobs))
    times = (format_duration(backend.total(metric)) for metric in ("queue_time_s", "run_time_s"))
    name = f"{backend.name} ({backend.version})" if backend.version else backend.name
    return (_inline(name), *map(str, counts), *times)


def _failures(tests: Sequence[ReportedTest], room: int) -> Iterator[str]:
    """Give a block for each failed test as long as there is room, then a line for each, then their number."""
    title, reserve = f"\n### Failed ({len(tests)})\n\n", 200
    room -= _size(title) + reserve
    if not tests or room < 0:
        return
    yield title
    writers = [_block, _line]
    for done, test in enumerate(tests):
        while writers and _size(writers[0](test)) > room:
            del writers[0]
        if not writers:
            yield f"\nand {len(tests) - done} more: there is no room for them here\n"
            return
        text = writers[0](test)
        room -= _size(text)
        yield text


def _block(test: ReportedTest) -> str:
    where = f" on {html.escape(test.backend)}" if test.backend else ""
    # No blank line and no Markdown up to the first one: it is HTML until then.
    lines = [f"<details><summary><code>{html.escape(test.nodeid)}</code>{where}: {_escaped_reason(test)}</summary>", ""]
    if test.jobs:
        titles = ("job", "native id", "end", "node", "queued", "ran for", "requested", "used")
        lines += _table(titles, [_job_row(job) for job in test.jobs[:_MAX_JOBS]])
        rest = len(test.jobs) - _MAX_JOBS
        lines += [f"and {rest} more jobs", ""] if rest > 0 else []
    lines += _fenced(shorten(test.text, _TEXT_LIMIT), "text") if test.text else []
    return "\n".join([*lines, "</details>", "", ""])


def _line(test: ReportedTest) -> str:
    return f"- {_code(test.nodeid)}: {_inline(_first_line(test))}\n"


def _escaped_reason(test: ReportedTest) -> str:
    return html.escape(_first_line(test))


def _first_line(test: ReportedTest) -> str:
    line = test.reason.splitlines()[0] if test.reason else test.outcome
    return shorten(line, 300).replace("\n", " ")


def _job_row(job: Job) -> tuple[str, ...]:
    metrics = job["metrics"]
    texts = [job["label"], job["native_id"] or "-", digest.end_text(job), ", ".join(metrics.get("nodes") or ()) or "-"]
    texts += [format_duration(metrics.get(name)) for name in ("queue_time_s", "run_time_s")]
    texts += [digest.requested_text(job), digest.used_text(job) or "-"]
    return tuple(_inline(str(text)) for text in texts)


def _tail(report: RunReport) -> Iterator[str]:
    skipped = [test for test in report.tests if test.outcome == "skipped" and (test.is_cluster_test or test.backend)]
    if skipped:
        yield "\n### Skipped\n"
        yield from _bullets(f"{count}: {_inline(reason)}" for reason, count in digest.reasons(skipped))
    left = digest.leftovers(report)
    if left:
        yield "\n### Left and kept\n"
        for title, items in left:
            yield from _bullets([f"{title}: {_code(shorten(item, 500))}" for item in items])
    if report.rerun:
        yield "\n### Run again what failed\n"
        yield from _fenced(report.rerun, "shell")


def _bullets(items: Iterable[str]) -> list[str]:
    lines = [f"- {item}" for item in items]
    rest = len(lines) - _MAX_LISTED
    return [*lines[:_MAX_LISTED], f"- and {rest} more"] if rest > 0 else lines


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _fenced(text: str, language: str) -> list[str]:
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text.rstrip("\n"), fence, ""]


def _inline(text: str) -> str:
    """Have a text stand for itself inside a line or a cell."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _code(text: str) -> str:
    return f"<code>{_inline(text)}</code>"
