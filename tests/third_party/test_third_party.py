"""A distribution of somebody else brings a backend: by its entry point, or by pytest's hook, and nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DESK = Path(__file__).parent / "desk"


@pytest.fixture(scope="module", autouse=True)
def ours_is_installed() -> None:
    """Skip where this project is only on the path: its own entry point is then missing too."""
    try:
        importlib.metadata.distribution("pytest-clusterjobs")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pytest-clusterjobs is not installed here")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the distribution installed in it, as pip does."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("desk")
    source = shutil.copytree(DESK, folder / "source")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    argv = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(source)]
    subprocess.run(argv, check=True, timeout=300)
    return folder / "site"


def pytest_with(site: Path, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    foreign = ("PYTEST_", "CLUSTERJOBS_", "PYTHON", "COV_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment["PYTHONPATH"] = str(site)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *argv],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_installed_backend_passes_the_conformance_suite_in_one_line(installed: Path, tmp_path: Path) -> None:
    shutil.copy(DESK / "conformance_of_desk.py", tmp_path / "test_desk.py")
    done = pytest_with(installed, tmp_path, "-q", "-W", "error")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.slow
def test_installed_backend_is_chosen_by_its_name(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "from pytest_clusterjobs import cluster\n"
        "@cluster\n"
        "def test_add():\n"
        "    assert 1 + 1 == 2\n"
        '@pytest.mark.cluster("desk")\n'
        "def test_command(cluster_jobs):\n"
        '    job = cluster_jobs.submit("echo hello")\n'
        '    assert job.result(60).stdout == "hello\\n"\n'
        '    assert job.record.submit_command.endswith("on the desk")\n'
    )
    done = pytest_with(installed, tmp_path, "--cluster=desk", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    done = pytest_with(installed, tmp_path, "--cluster=dsk")
    assert "did you mean 'desk'?" in done.stderr


@pytest.mark.slow
def test_hook_registers_a_backend_where_nothing_is_installed(tmp_path: Path) -> None:
    shutil.copy(DESK / "clusterjobs_desk.py", tmp_path)
    shutil.copy(DESK / "conformance_of_desk.py", tmp_path / "test_desk.py")
    (tmp_path / "conftest.py").write_text(
        "from clusterjobs_desk import DeskBackend\n"
        "def pytest_clusterjobs_register_backends(register):\n"
        '    register("desk", DeskBackend)\n'
    )
    (tmp_path / "test_hook.py").write_text(
        "import pytest\n"
        '@pytest.mark.cluster("desk")\n'
        "def test_command(cluster_jobs):\n"
        '    assert cluster_jobs.run("echo hello").stdout == "hello\\n"\n'
    )
    done = pytest_with(tmp_path, tmp_path, "--cluster=desk", "test_hook.py", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    selection = "value_comes_back or cancel_ends or array_gives"
    done = pytest_with(tmp_path, tmp_path, "--cluster=desk", "test_desk.py", "-q", "-k", selection)
    assert done.returncode == 0, done.stdout + done.stderr
