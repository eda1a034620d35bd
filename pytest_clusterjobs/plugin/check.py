"""``--cluster-check``: which backends can be used from here, and why others cannot."""

from __future__ import annotations

import sys

import pytest

from pytest_clusterjobs.plugin import session as sessions
from pytest_clusterjobs.plugin.session import ClusterSession
from pytest_clusterjobs.plugin.signals import uninterrupted
from pytest_clusterjobs.plugin.values import SPECIAL_WORDS

_TITLES = ("backend", "available", "version", "nodes", "partitions")


def check(config: pytest.Config) -> int:
    """Ask the named backends, or all, and print a table.

    Returns:
        0 when all that were named answer, or, with none named, when any does; else 1.

    Raises:
        pytest.UsageError: An option is wrong, or a name is unknown.
    """
    session = sessions.of(config)
    session.check_names()
    named = [word for word in session.values.cluster if word not in SPECIAL_WORDS]
    try:
        rows = [_row(session, name) for name in named or session.known]
    finally:
        with uninterrupted():
            if session.active_run is not None:
                session.active_run.close()
            session.close()
    names = [row[0] for row in rows]
    sys.stdout.write("\n".join([*_table(rows), *_notes(session, names), *_credentials(session, names)]) + "\n")
    answers = [probe.is_available for probe in session.probes.values()]
    return 0 if (all(answers) if named else any(answers)) else 1


def _row(session: ClusterSession, name: str) -> tuple[str, ...]:
    probe = session.probe(name)
    if probe.info is None:
        return name, "no", session.reason(probe)
    info = probe.info
    partitions = ", ".join(map(str, info.partitions))
    return name, "yes", info.version or "-", "-" if info.nodes is None else str(info.nodes), partitions or "-"


def _notes(session: ClusterSession, names: list[str]) -> list[str]:
    """Give a line about the limits of each backend that answers."""
    found = [(name, session.probe(name).info) for name in names]
    return [f"{name}: {told}" for name, info in found if info is not None and (told := info.notes())]


def _credentials(session: ClusterSession, names: list[str]) -> list[str]:
    """Give a line for each credential that is declared: its source, or what to set; never its value."""
    return [
        f"{name}: {each['key']} from {each['source']}"
        if each["source"]
        else f"{name}: {each['problem']}".splitlines()[0]
        for name in names
        for each in session.configured.credentials(name).survey()
    ]


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Align the columns; a row that ends early, with a reason, does not widen them."""
    full = [_TITLES, *(row for row in rows if len(row) == len(_TITLES))]
    widths = [max(len(row[column]) for row in full) for column in range(len(_TITLES))]
    widths[0] = max(len(row[0]) for row in [_TITLES, *rows])
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in [_TITLES, *rows]]
    return [line.rstrip() for line in lines]
