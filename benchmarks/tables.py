"""Rows as tables: for the terminal, and in Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.measure import Row

_HEAD = ("what", "ours", "floor", "figure", "bar", "")


def bars(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Give the cells of the rows that are compared with a bar, their head first."""
    return [_HEAD, *(_cells(row) for row in rows)]


def beside_peers(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Give the cells of the rows that have the peers' measures, their head first."""
    names = ("ours", "submitit", "PSI/J", "floor")
    body = [
        (row.what, *(_seconds(median(row.samples[name])) if name in row.samples else "no arrays" for name in names))
        for row in rows
    ]
    return [("what", *names), *body]


def has_peers(row: Row) -> bool:
    """Tell whether a row belongs to the peers' table."""
    return "submitit" in row.samples


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Write cells in columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Write cells as a table in Markdown."""
    lines = [" | ".join(line) for line in cells]
    lines.insert(1, " | ".join("---" for _ in cells[0]))
    return "\n".join(f"| {line} |" for line in lines)


def figure(row: Row) -> str:
    """Write a row's figure with its unit, and the quartiles of what the pairs gave."""
    spread = row.spread()
    return _number(row.figure, row.unit) + (f" ({spread[0]:.2f} to {spread[1]:.2f})" if spread else "")


def _cells(row: Row) -> tuple[str, ...]:
    has_floor = "floor" in row.samples
    ours = _seconds(median(row.samples["ours"])) if has_floor else _number(row.figure, row.unit)
    floor = f"{_seconds(median(row.samples['floor']))}, {row.floor}" if has_floor else ""
    bar = "" if row.bar is None else _number(row.bar, row.unit)
    verdict = "" if row.bar is None else "met" if row.is_met else "missed"
    return row.what, ours, floor, figure(row), bar, verdict


def _number(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.2f}x"
    if unit == "ms":
        return f"{value:+.1f} ms"
    return f"{value:.2f} {unit}" if value < 10 else f"{value:.0f} {unit}"


def _seconds(value: float) -> str:
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"
