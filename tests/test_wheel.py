"""The wheel: built, installed into a clean venv outside the checkout, and used there as a new user would."""

from __future__ import annotations

import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def run(*argv: str | Path, cwd: Path) -> str:
    """Run a command as from a shell that knows nothing of this checkout."""
    foreign = ("PYTEST_", "CLUSTERJOBS_", "PYTHON", "COV_", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    done = subprocess.run(
        [str(word) for word in argv], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    options = ("-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    run(folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=folder)
    return folder


def test_it_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "pytest_clusterjobs"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(ROOT)) for path in files}
    assert "pytest_clusterjobs/py.typed" in names


def test_its_metadata_says_how_it_is_used(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    folder = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
    assert metadata["Name"] == "pytest-clusterjobs"
    assert metadata["Version"] == importlib.metadata.version("pytest-clusterjobs")
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    entry_points = archive.read(f"{folder}/entry_points.txt").decode()
    assert "[pytest11]\nclusterjobs = pytest_clusterjobs.plugin\n" in entry_points + "\n"
    assert "clusterjobs = pytest_clusterjobs.cli.main:main" in entry_points


def test_a_new_user_runs_the_quickstart(venv: Path, tmp_path: Path) -> None:
    project = tmp_path / "quickstart"
    shutil.copytree(
        ROOT / "conftest_examples" / "quickstart", project, ignore=shutil.ignore_patterns("__pycache__", ".*")
    )
    where = run(venv / "bin" / "python", "-c", "import pytest_clusterjobs as p; print(p.__file__)", cwd=project)
    assert Path(where.strip()).is_relative_to(venv)
    output = run(venv / "bin" / "pytest", "-m", "real_world", "-p", "no:cacheprovider", cwd=project)
    assert "9 passed" in output
    assert "local: 9 ran" in output
    assert not (project / ".clusterjobs").exists()


@pytest.mark.parametrize("verb", [[], ["up"], ["up", "slurm"], ["down"], ["check"], ["reap"]], ids=" ".join)
def test_the_shell_command_helps_itself(venv: Path, tmp_path: Path, verb: list[str]) -> None:
    output = run(venv / "bin" / "clusterjobs", *verb, "--help", cwd=tmp_path)
    assert output.startswith("Usage: clusterjobs")


def test_the_version_can_be_asked(venv: Path, tmp_path: Path) -> None:
    output = run(venv / "bin" / "clusterjobs", "--version", cwd=tmp_path)
    assert output.split()[-1] == importlib.metadata.version("pytest-clusterjobs")
