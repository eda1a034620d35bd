"""The documentation is true: its examples run, its tables are complete, and it names nothing that is not there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_clusterjobs.cli import main as cli
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.core.spec import SPEC_ARGUMENTS
from pytest_clusterjobs.plugin import markers, options

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])

#: A block whose first line is a comment with a file's name is that file, of the page's own small project.
_BLOCK = re.compile(r"^```(?:python|ini)\n# (?P<name>[\w./]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_CONSOLE = re.compile(r"^```(?:console|bash|sh)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def files_of(page: Path) -> dict[str, str]:
    return {match["name"]: match["text"] for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))}


WITH_EXAMPLES = [page for page in PAGES if files_of(page)]


def write_project(page: Path, folder: Path) -> list[str]:
    files = {name: text for name, text in files_of(page).items() if not name.endswith(".ini")}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return sorted(files)


def run(folder: Path, *argv: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "CLUSTERJOBS_"))}
    done = subprocess.run(
        [sys.executable, *argv], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def passed(output: str) -> int:
    return int((re.search(r"(\d+) passed", output.rstrip().splitlines()[-1]) or ["", "0"])[1])


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    files = write_project(page, tmp_path)
    if any(name.startswith("test_") for name in files):
        output = run(tmp_path, "-m", "pytest", "-m", "real_world or not real_world", "--cluster=local")
        assert passed(output) >= 1
    for script in (name for name in files if not name.startswith(("test_", "conftest"))):
        assert run(tmp_path, script).strip()
    assert not (tmp_path / ".clusterjobs").exists()


@pytest.mark.slow
def test_a_kept_job_can_be_run_again_by_hand(tmp_path: Path) -> None:
    """As how-to/failures.md says, under "Look into the directory"."""
    text = (
        "from pytest_clusterjobs import cluster\n\n@cluster\ndef test_x(tmp_path):\n    print('again')\n    assert 0\n"
    )
    (tmp_path / "test_x.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "real_world"]
    subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    (directory,) = (tmp_path / ".clusterjobs").glob("*/main/1-test_x")
    start = directory.parent.parent / "node" / "start.py"
    done = subprocess.run([sys.executable, start, directory], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "again\n")
    assert "assert 0" in done.stderr


@pytest.mark.cluster_lane("slurm")
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_the_examples_of_a_page_run_on_slurm(page: Path, tmp_path: Path, slurm: RunningCluster) -> None:
    if any(name.startswith("test_") for name in write_project(page, tmp_path)):
        assert passed(run(tmp_path, "-m", "pytest", "--cluster=slurm")) >= 1


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_that_a_page_names_is_there(page: Path) -> None:
    known = {option.flag or f"--cluster-{option.name.replace('_', '-')}" for option in options.OPTIONS}
    text = re.sub(r"clusterjobs reap[^\n`]*--cluster\b", "", page.read_text(encoding="utf-8"))
    named = set(re.findall(r"(?<![\w-])--(?:cluster(?:-[a-z-]*[a-z])?|run-expensive)", text))
    assert sorted(named - known) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_page_shows_is_there(page: Path) -> None:
    """Verbs of ``clusterjobs`` and their options."""
    import click

    context = click.Context(cli.main)
    for block in _CONSOLE.finditer(page.read_text(encoding="utf-8")):
        for words in re.findall(r"clusterjobs ([a-z][^\n\")]*)", block["text"]):
            command: click.Command = cli.main
            for word in shlex.split(words, comments=True):
                if word.startswith("--"):
                    flags = [flag for parameter in command.params for flag in parameter.opts]
                    assert word.partition("=")[0] in flags, words
                elif isinstance(command, click.Group):
                    found = command.get_command(context, word)
                    assert found is not None, words
                    command = found


def rows(page: str) -> str:
    return (DOCS / "reference" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("argument", SPEC_ARGUMENTS)
def test_every_argument_of_the_decorator_has_a_row(argument: str) -> None:
    assert re.search(rf"^\| .*`{argument}`.* \|", rows("decorator.md"), re.MULTILINE)


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.name)
def test_every_option_has_a_row_with_its_three_names(option: options.Option) -> None:
    flag = "" if option.flag is None else option.flag or f"--cluster-{option.name.replace('_', '-')}"
    (row,) = [line for line in rows("options.md").splitlines() if f"`clusterjobs_{option.name}`" in line]
    assert f"`CLUSTERJOBS_{option.name.upper()}`" in row
    assert re.search(rf"`{flag}[`=]", row) if flag else row.startswith("| |")


@pytest.mark.parametrize("marker", sorted(markers.NAMES))
def test_every_marker_is_explained(marker: str) -> None:
    assert re.search(rf"^`{marker}\b.*`\n: ", rows("markers.md"), re.MULTILINE)


def test_every_verb_is_in_the_reference() -> None:
    assert [verb for verb in cli.VERBS if f"`clusterjobs {verb}" not in rows("shell.md")] == []


def test_every_fixture_is_explained() -> None:
    source = (ROOT / "pytest_clusterjobs" / "plugin" / "fixtures.py").read_text(encoding="utf-8")
    names = re.findall(r"@pytest\.fixture.*\ndef (cluster_\w+)", source)
    assert names
    assert [name for name in names if f"`{name}`\n: " not in rows("fixtures.md")] == []


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{name_of(page)}: {target}"
