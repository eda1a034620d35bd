"""``clusterjobs up KIND``: start a throw-away cluster and print what to export."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from pytest_clusterjobs.cli.lazy import LazyGroup
from pytest_clusterjobs.clusters import base
from pytest_clusterjobs.core.units import parse_memory

#: Kind -> (where its command is, its line in --help).
KINDS = {
    "slurm": ("pytest_clusterjobs.cli.up:slurm", "A controller and several nodes, from the distribution's packages."),
    "sge": ("pytest_clusterjobs.cli.up:sge", "Grid Engine: a queue master and a host, from the same."),
    "sshd": ("pytest_clusterjobs.cli.up:sshd", "This machine as if it were another one, for SSH."),
    "kubernetes": ("pytest_clusterjobs.cli.up:kubernetes", "A cluster in containers, by kind, k3d or minikube."),
}


@click.group(cls=LazyGroup, table=KINDS, subcommand_metavar="KIND")
def up() -> None:
    """Start a throw-away cluster on this machine.

    Only ``export`` lines go to standard output: eval "$(clusterjobs up slurm)"
    """


@up.command()
@click.option("--name", default="default", show_default=True, help="Tells several clusters apart.")
@click.option("--nodes", type=int, help="Nodes, named n1, n2, ...  [default: 4]")
@click.option("--cpus", type=int, help="CPUs each node claims to have.  [default: 4]")
@click.option("--memory", help="Memory each node claims to have.  [default: 4GB]")
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="NAME[:MAXTIME[:TIER]]",
    help="One more partition; repeatable. Jobs of a higher tier requeue jobs of a lower one; main has 10.",
)
@click.option("--accounting", is_flag=True, default=None, help="Run slurmdbd and MariaDB: sacct, sacctmgr, QOS.")
@click.option("--cgroup", is_flag=True, default=None, help="Limit memory with cgroups, for OUT_OF_MEMORY; root only.")
@click.option("--tick-ms", type=int, help="Start queued jobs every N ms, not every second as Slurm does; needs cc.")
@click.option("--conf-line", "conf_lines", multiple=True, metavar="KEY=VALUE", help="A line of slurm.conf; repeatable.")
@click.option("--auth", type=click.Choice(["munge", "none"]), help="How users are known.  [default: munge]")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="The cluster's directory: new or empty.")
@click.option("--boot-timeout", "boot_timeout_s", type=float, metavar="SECONDS", help="Give up after.  [default: 60]")
def slurm(name: str, memory: str | None, **options: Any) -> None:
    """Start a real Slurm on loopback, as root or not; one that is up already is given as it is.

    eval "$(clusterjobs up slurm)"; sinfo; clusterjobs down
    """
    asked = {key: value for key, value in options.items() if value not in (None, ())}
    if memory is not None:
        asked["memory_bytes"] = parse_memory(memory)
    _start("slurm", name, asked)


@up.command()
@click.option("--name", default="default", show_default=True, help="Tells several clusters apart.")
@click.option("--slots", type=int, help="Slots of the one host.  [default: 4]")
@click.option("--memory", help="What all jobs together may ask for as h_vmem.  [default: 8GB]")
@click.option("--queue", "queues", multiple=True, metavar="NAME[:MAXTIME]", help="A queue besides all.q; repeatable.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="The cluster's directory: new or empty.")
@click.option("--boot-timeout", "boot_timeout_s", type=float, metavar="SECONDS", help="Give up after.  [default: 60]")
def sge(name: str, memory: str | None, **options: Any) -> None:
    """Start a real Grid Engine on loopback, as root or not; one that is up already is given as it is.

    eval "$(clusterjobs up sge)"; qhost; clusterjobs down sge
    """
    asked = {key: value for key, value in options.items() if value not in (None, ())}
    if memory is not None:
        asked["memory_bytes"] = parse_memory(memory)
    _start("sge", name, asked)


@up.command()
@click.option("--name", default="default", show_default=True, help="Tells several apart.")
@click.option("--conf-line", "conf_lines", multiple=True, metavar="LINE", help="A line of sshd_config; repeatable.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Its directory: new or empty.")
@click.option("--boot-timeout", "boot_timeout_s", type=float, metavar="SECONDS", help="Give up after.  [default: 30]")
def sshd(name: str, **options: Any) -> None:
    """Start an sshd on loopback with keys of its own, as root or not; one that is up already is given as it is.

    eval "$(clusterjobs up sshd)"; ssh -F $CLUSTERJOBS_SSH_CONFIG $CLUSTERJOBS_SSH_HOST; clusterjobs down sshd
    """
    _start("sshd", name, {key: value for key, value in options.items() if value not in (None, ())})


@up.command()
@click.option("--name", default="default", show_default=True, help="Tells several clusters apart.")
@click.option("--tool", help="kind, k3d or minikube.  [default: the first that is installed]")
@click.option("--version", help="Image of the node (kind, k3d) or version of Kubernetes (minikube).")
@click.option("--image", "images", multiple=True, help="An image to bring into it; repeatable. The first runs.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="For its kubeconfig: new or empty.")
@click.option("--boot-timeout", "boot_timeout_s", type=float, metavar="SECONDS", help="Give up after.  [default: 300]")
def kubernetes(name: str, **options: Any) -> None:
    """Start a Kubernetes in containers of this machine; one that is up already is given as it is.

    eval "$(clusterjobs up kubernetes)"; kubectl get nodes; clusterjobs down kubernetes
    """
    _start("kubernetes", name, {key: value for key, value in options.items() if value not in (None, ())})


def _start(kind: str, name: str, options: dict[str, Any]) -> None:
    with _progress(), _ended_by_signals():
        cluster = base.up(kind, name=name, **options)
    for key, value in cluster.environment.items():
        click.echo(f"export {key}={shlex.quote(value)}")


@contextmanager
def _progress() -> Iterator[None]:
    """Show what ``clusters`` logs on standard error."""
    logger = logging.getLogger("pytest_clusterjobs.clusters")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("clusterjobs: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us as Ctrl-C does: with the clean-up of whatever was started."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    both = (signal.SIGTERM, signal.SIGHUP)
    heeded = [number for number in both if signal.getsignal(number) != signal.SIG_IGN]  # nohup stays nohup
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
