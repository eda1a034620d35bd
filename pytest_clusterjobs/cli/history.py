"""``clusterjobs history``: what became of a project's past runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.core.units import format_duration
from pytest_clusterjobs.reports import history as past

_BARS = "▁▂▃▄▅▆▇█"
#: So many runs are drawn.
_DRAWN = 20
_MAX_FLAKY = 20
#: Where nobody looks at a terminal.
_WIDTH = 200


@click.command()
@click.option(
    "--project", type=click.Path(file_okay=False), help="Root directory of the project.  [default: the one around here]"
)
@click.option("--backend", "backends", multiple=True, help="Only this backend or profile; repeatable.")
@click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True, help="Look at so many runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def history(project: str | None, backends: tuple[str, ...], runs: int, as_json: bool) -> None:
    """Tell what became of past runs: pass rates, waits and run times of each backend, and tests that pass and fail.

    Changes are from the older half of the runs to the newer one, of each test with itself. Exits with 1 when no run is
    remembered.
    """
    path = past.default_path()
    known = past.projects(path) if os.path.exists(path) else []
    root = _around(os.getcwd(), known) if project is None else os.path.abspath(project)
    if root not in known:
        others = f"; there are runs of: {', '.join(known)}{nearest(root or '', known)}" if known else ""
        raise click.ClickException(f"no run of {root or os.getcwd()} is remembered in {path}{others}")
    tests = past.read(path, root, runs)
    names = sorted({test.backend for test in tests})
    for name in backends:
        if name not in names:
            raise click.UsageError(f"no run on {name!r} is remembered; known: {', '.join(names)}{nearest(name, names)}")
    tests = [test for test in tests if not backends or test.backend in backends]
    trends, flaky = past.trends(tests), past.flaky(tests)
    if as_json:
        click.echo(json.dumps(_to_dict(root, trends, flaky), indent=2, default=lambda moment: moment.isoformat()))
    else:
        _print(root, trends, flaky)


def _around(folder: str, known: Sequence[str]) -> str | None:
    """Give the nearest known project upwards from a directory."""
    while folder not in known:
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
    return folder


def _to_dict(project: str, trends: Sequence[past.Trend], flaky: Sequence[past.Flaky]) -> dict[str, Any]:
    return {
        "project": project,
        "backends": [
            {**trend._asdict(), "pass_rate": trend.pass_rate, "points": [point._asdict() for point in trend.points]}
            for trend in trends
        ],
        "flaky": [each._asdict() for each in flaky],
    }


def _print(project: str, trends: Sequence[past.Trend], flaky: Sequence[past.Flaky]) -> None:
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    runs = {point.run_id: point.started_at for trend in trends for point in trend.points}
    first, last = (f"{moment:%Y-%m-%d}" for moment in (min(runs.values()), max(runs.values())))
    console.print(f"{project}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {first} to {last}", markup=False)
    _table(
        console,
        ("backend", "runs", "tests", "passed", "", "cluster trouble", "queued per job", "", "ran per job", ""),
        [_row(trend) for trend in trends],
    )
    if flaky:
        console.print("\ntests that pass and fail")
        rows = [
            (each.name, each.backend, *map(str, (each.runs, each.failed, each.changes, each.reruns)))
            for each in flaky[:_MAX_FLAKY]
        ]
        _table(console, ("test", "backend", "runs", "failed", "changes", "run again"), rows)
        if len(flaky) > _MAX_FLAKY:
            console.print(f"and {len(flaky) - _MAX_FLAKY} more; --json has all")


def _row(trend: past.Trend) -> tuple[str, ...]:
    points = trend.points[-_DRAWN:]
    queued, ran = [point.queue_time_s for point in points], [point.run_time_s for point in points]
    return (
        trend.backend,
        str(len(trend.points)),
        str(sum(point.tests for point in trend.points)),
        f"{trend.pass_rate:.1%}",
        _drawn([point.passed / point.tests for point in points], 1.0),
        str(trend.troubles),
        f"{format_duration(queued[-1])}{_changed(trend.queue_change)}",
        _drawn(queued),
        f"{format_duration(ran[-1])}{_changed(trend.run_change)}",
        _drawn(ran),
    )


def _changed(part: float | None) -> str:
    return "" if part is None else f" ({part:+.0%})"


def _drawn(values: Sequence[float | None], top: float | None = None) -> str:
    """Draw one bar for each value, from 0 up to ``top`` or the largest; a blank where it is not known."""
    top = top or max((value for value in values if value is not None), default=0.0)
    last = len(_BARS) - 1
    return "".join(" " if value is None else _BARS[round(value / top * last) if top else 0] for value in values)


def _table(console: Any, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # a text, not markup: ids have brackets
    console.print(table)
