"""``clusterjobs``: the table of verbs, and what an error becomes in the shell.

Exit codes: 0 done; 1 it could not be done; 2 the command line is wrong.
"""

from __future__ import annotations

import os
from typing import Any

import click

from pytest_clusterjobs.cli.lazy import LazyGroup
from pytest_clusterjobs.core.errors import ClusterJobsError, ConfigError, SpecError

#: Verb -> (where its command is, its line in --help). A new verb is a module beside this one and a row here.
VERBS = {
    "check": (
        "pytest_clusterjobs.cli.check:check",
        "Tell which backends can be used from here, and why not the others.",
    ),
    "config": ("pytest_clusterjobs.cli.config:config", "See and write the configuration: clusterjobs.yaml."),
    "history": (
        "pytest_clusterjobs.cli.history:history",
        "Tell what became of past runs: pass rates, times, flaky tests.",
    ),
    "reap": ("pytest_clusterjobs.cli.reap:reap", "Cancel what dead runs left, and remove their directories."),
    "up": ("pytest_clusterjobs.cli.up:up", "Start a throw-away cluster on this machine."),
    "down": ("pytest_clusterjobs.cli.down:down", "Stop throw-away clusters and remove what they left."),
}


class _Main(LazyGroup):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigError, SpecError) as error:
            raise click.UsageError(str(error)) from error
        except ClusterJobsError as error:
            if os.environ.get("CLUSTERJOBS_TRACEBACK"):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Main, table=VERBS, subcommand_metavar="VERB")
@click.version_option(package_name="pytest-clusterjobs", prog_name="clusterjobs")
def main() -> None:
    """Run functions and tests as real jobs on clusters."""
