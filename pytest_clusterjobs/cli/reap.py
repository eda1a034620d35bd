"""``clusterjobs reap``: cancel what dead runs left."""

from __future__ import annotations

import os

import click

from pytest_clusterjobs.config.settings import WORKDIR_NAME
from pytest_clusterjobs.engine.configured import Configured, standalone
from pytest_clusterjobs.engine.reap import ReapReport, reap_run, reap_workdir, where_jobs_outlive


@click.command()
@click.argument("workdirs", nargs=-1, type=click.Path(exists=True, file_okay=False))
@click.option("--run", "run_id", help="Cancel the jobs of one run by its id, without its directory.")
@click.option(
    "--cluster", "backends", multiple=True, help="With --run: backends or profiles to ask.  [default: all that answer]"
)
@click.option("--keep", is_flag=True, help="Leave the directories of the dead runs.")
@click.option("--kept-too", is_flag=True, help="Also remove what runs that ended in order have kept.")
def reap(workdirs: tuple[str, ...], run_id: str | None, backends: tuple[str, ...], keep: bool, kept_too: bool) -> None:
    """Cancel what a dead run left on any backend, and remove its directory.

    WORKDIRS hold the runs; by default the nearest .clusterjobs upwards from here, and those of the configuration.
    Living runs are left alone. Exits with 1 when something is left.
    """
    configured = standalone()
    if run_id is not None:
        reports = [reap_run(run_id, backends or where_jobs_outlive(), configured.place)]
    else:
        reports = [
            report
            for folder in list(workdirs) or _nearest_workdirs(configured)
            for report in reap_workdir(os.path.abspath(folder), keep=keep, kept_too=kept_too, places=configured.place)
        ]
    for report in reports:
        _tell(report)
    if not reports:
        click.echo("clusterjobs: no run was found")
    if any(report.left or report.problems for report in reports):
        raise SystemExit(1)


def _nearest_workdirs(configuration: Configured) -> list[str]:
    if given := os.environ.get("CLUSTERJOBS_WORKDIR"):
        return [given]
    configured = [path for path in configuration.workdirs() if os.path.isdir(path)]
    place = os.getcwd()
    while not os.path.isdir(os.path.join(place, WORKDIR_NAME)):
        if place == os.path.dirname(place):
            return configured
        place = os.path.dirname(place)
    return list(dict.fromkeys([os.path.join(place, WORKDIR_NAME), *configured]))


def _tell(report: ReapReport) -> None:
    gone = f", cancelled {', '.join(report.cancelled)}" if report.cancelled else ""
    removed = ", directory removed" if report.is_removed else ""
    click.echo(f"run {report.run_id}: {report.status}{gone}{removed}")
    for native_id in report.left:
        click.echo(f"  still there: {native_id}", err=True)
    for problem in report.problems:
        click.echo(f"  {problem}", err=True)
