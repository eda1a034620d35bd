"""``clusterjobs down [KIND]``: stop throw-away clusters."""

from __future__ import annotations

import click

from pytest_clusterjobs.clusters import base


@click.command()
@click.argument("kind", required=False)
@click.option("--name", help="Which one.  [default: default]")
@click.option("--all", "everything", is_flag=True, help="All of that kind, or of every kind.")
def down(kind: str | None, name: str | None, everything: bool) -> None:
    """Stop a throw-away cluster with its jobs, and remove its directory. Without KIND: of every kind."""
    if everything and name is not None:
        raise click.UsageError("--name and --all exclude each other")
    stopped = 0
    for each in base.KINDS if kind is None else [kind]:
        for which in base.names(each) if everything else [name or "default"]:
            if base.down(each, which):
                stopped += 1
                click.echo(f"clusterjobs: {each} cluster {which!r} is down", err=True)
    if not stopped:
        what = "no cluster" if everything else f"no cluster named {name or 'default'!r}"
        others = [] if everything else sorted({other for each in base.KINDS for other in base.names(each)})
        click.echo(f"clusterjobs: {what} is up" + (f"; there are: {', '.join(others)}" if others else ""), err=True)
