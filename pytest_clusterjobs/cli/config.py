"""``clusterjobs config``: what the configuration files mean, a first one, and their JSON schema."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from pytest_clusterjobs.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.probe import Probe

VERBS = {
    "show": ("pytest_clusterjobs.cli.config:show", "Print what counts for a profile, and where it comes from."),
    "init": ("pytest_clusterjobs.cli.config:init", "Ask the schedulers, and write a first file."),
    "schema": ("pytest_clusterjobs.cli.config:schema", "Print the JSON schema of the file, for editors."),
}


@click.group(cls=LazyGroup, table=VERBS, subcommand_metavar="VERB")
def config() -> None:
    """See and write the configuration: clusterjobs.yaml."""


@click.command()
@click.argument("profile", required=False)
@click.option("--origin", is_flag=True, help="Print beside each value where it comes from.")
def show(profile: str | None, origin: bool) -> None:
    """Print what counts for PROFILE, or for a backend; without a name, the files, the profiles, and what all share.

    Values of env are not printed.
    """
    from pytest_clusterjobs.engine.configured import standalone

    configured = standalone()
    settings = configured.effective(profile)
    if profile is None:
        paths = configured.configuration.paths if configured.configuration else ()
        for path in paths:
            click.echo(f"# file: {path}")
        click.echo(f"# profiles: {', '.join(configured.names) or 'none'}" if paths else "# no configuration file")
    width = max(len(name) for name in settings)
    for name, (value, source) in settings.items():
        text = _text(name, value)
        click.echo(f"{name:{width}}  {text}" + (f"  # {source}" if origin else ""))


def _text(name: str, value: object) -> str:
    if name.startswith("env."):
        return "(set)"  # it may be a secret
    if name.startswith("credentials.") and not value:
        return "(variable, .env or keyring)"
    return value if isinstance(value, str) else json.dumps(value)


@click.command()
@click.argument("path", default="clusterjobs.yaml", type=click.Path(dir_okay=False))
def init(path: str) -> None:
    """Ask the schedulers that answer, and write a commented first file to PATH: clusterjobs.yaml here by default.

    A file that is there is never overwritten.
    """
    from pytest_clusterjobs.cli.config_text import first_file
    from pytest_clusterjobs.config.files import has_table

    if os.path.lexists(path):
        raise click.ClickException(f"{path} is there already; it is left as it is")
    project = os.path.join(os.path.dirname(os.path.abspath(path)), "pyproject.toml")
    if has_table(project):
        raise click.ClickException(f"[tool.clusterjobs] is in {project} already; a project has one configuration")
    text, told = first_file(_ask())
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be written: {error.strerror}") from None
    for line in told:
        click.echo(line)
    click.echo(f"written: {path}")


def _ask() -> list[Probe]:
    import tempfile

    from pytest_clusterjobs.backends import registry
    from pytest_clusterjobs.config.settings import Settings
    from pytest_clusterjobs.engine.run import Run

    with tempfile.TemporaryDirectory(prefix="clusterjobs-init-") as folder:
        run = Run(Settings(workdir=folder))
        try:
            return [run.probe(name) for name in registry.names()]
        finally:
            run.close()


@click.command()
def schema() -> None:
    """Print the JSON schema of clusterjobs.yaml, for editors that check and complete."""
    from pytest_clusterjobs.config.profiles import schema as schema_of_the_file

    click.echo(json.dumps(schema_of_the_file(), indent=2))
