"""``clusterjobs check``: which backends can be used from here, and why not the others."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile

import click

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.config.layers import Sourced
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.engine.configured import Configured
from pytest_clusterjobs.engine.probe import Probe
from pytest_clusterjobs.engine.run import Run


@click.command()
@click.argument("backends", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def check(backends: tuple[str, ...], as_json: bool) -> None:
    """Ask BACKENDS, which may be profiles, or all backends, whether they can be used from here.

    Of each credential that they declare it tells the source that has it, never the value. Exits with 0 when all those
    named can be used, or, without a name, when any can; else with 1.
    """
    configured = Configured(os.getcwd(), {"workdir": Sourced("", ""), "max_jobs": Sourced(None, "")})
    chosen = [configured.require(name) for name in backends] or list(registry.names())
    with tempfile.TemporaryDirectory(prefix="clusterjobs-check-") as folder:
        run = Run(Settings(workdir=folder), places=configured.place)
        probes = [run.probe(name) for name in chosen]
        run.close()
    survey = {name: configured.credentials(name).survey() for name in chosen}
    if as_json:
        rows = [{**dataclasses.asdict(probe), "credentials": survey[probe.name]} for probe in probes]
        click.echo(json.dumps(rows, indent=2))
    else:
        _table(probes)
        _credentials(survey)
    answers = [probe.is_available for probe in probes]
    raise SystemExit(0 if (all(answers) if backends else any(answers)) else 1)


def _table(probes: list[Probe]) -> None:
    """Print a row for each backend, and below, in lines that are not broken, limits and why some cannot be used."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("backend", "usable", "version", "nodes", "partitions"):
        table.add_column(heading, overflow="fold")
    for probe in probes:
        info = probe.info
        partitions = ", ".join(map(str, info.partitions)) if info else ""
        nodes = "" if info is None or info.nodes is None else str(info.nodes)
        version = info.version if info else ""
        table.add_row(probe.name, "yes" if probe.is_available else "no", *map(escape, (version, nodes, partitions)))
    Console().print(table)
    notes = [f"{probe.name}: {told}" for probe in probes if probe.info is not None and (told := probe.info.notes())]
    notes += [probe.reason for probe in probes if not probe.is_available]
    if notes:
        click.echo("\n".join(["", *notes]))


def _credentials(survey: dict[str, list[dict[str, str | None]]]) -> None:
    """Print a line for each credential: its source, or why there is none."""
    rows = [(name, each) for name, found in survey.items() for each in found]
    if not rows:
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("backend", "credential", "source"):
        table.add_column(heading, overflow="fold")
    for name, each in rows:
        problem = (each["problem"] or "").partition("\n")[0]
        table.add_row(name, each["key"], escape(each["source"] or problem))
    Console().print()
    Console().print(table)
