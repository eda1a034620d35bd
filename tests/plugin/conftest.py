"""Projects to run pytest in, and a backend that says what a test wants it to say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

# What an inner pytest imports is forgotten at its end: loaded here, once, it need not be loaded again in each test.
import pytest_clusterjobs.backends.local
import pytest_clusterjobs.backends.slurm
import pytest_clusterjobs.decorator
import pytest_clusterjobs.engine.run
import pytest_clusterjobs.plugin.ending
import pytest_clusterjobs.plugin.execution
import pytest_clusterjobs.plugin.reporter
import pytest_clusterjobs.plugin.reporting
import pytest_clusterjobs.plugin.sections
import pytest_clusterjobs.plugin.selection
import pytest_clusterjobs.plugin.summary  # noqa: F401
from pytest_clusterjobs.backends import registry

#: A conftest that registers two backends: ``answering`` runs jobs as local does and knows what its cluster has;
#: ``silent`` is never there. Written out, since it is loaded by the pytest that is tested.
BACKENDS = """
import os
from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import BackendInfo, Partition
from pytest_clusterjobs.backends.local import LocalBackend
from pytest_clusterjobs.core.errors import BackendUnavailable

class AnsweringBackend(LocalBackend):
    name = "answering"
    def check(self):
        if "CALLS" in os.environ:
            with open(os.environ["CALLS"], "a") as file:
                file.write("answering\\n")
        return BackendInfo("answering 1.0", nodes=2, gpus=1, partitions=(Partition("main", True), Partition("debug")))

class SilentBackend(LocalBackend):
    name = "silent"
    def check(self):
        if "CALLS" in os.environ:
            with open(os.environ["CALLS"], "a") as file:
                file.write("silent\\n")
        raise BackendUnavailable("sbatch-silent not found on PATH", self.name)

def pytest_clusterjobs_register_backends(register):
    registry._registered.clear()  # an earlier pytest in this process had the same names
    register("answering", AnsweringBackend)
    register("silent", SilentBackend)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Give an empty project whose pytest has this plugin, whether or not it is installed, and none of our options."""
    for name in list(os.environ):
        if name.startswith(("CLUSTERJOBS_", "SLURM_", "PYTEST_XDIST")) or name in (
            "PYTEST_ADDOPTS",
            "CI",
            "GITHUB_STEP_SUMMARY",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "160")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(pytester.path.parent / "pycache"))
    monkeypatch.setattr(registry, "_registered", {})  # the same names, another class, in each test's process
    if not entry_points(group="pytest11", name="clusterjobs"):
        monkeypatch.setenv("PYTEST_PLUGINS", "pytest_clusterjobs.plugin")
    return pytester


@pytest.fixture
def backends(project: pytest.Pytester) -> pytest.Pytester:
    """Give a project with the backends ``answering`` and ``silent``."""
    project.makeconftest(BACKENDS)
    return project


Report = Callable[..., Mapping[str, Any]]


@pytest.fixture
def report_of(project: pytest.Pytester) -> Report:
    """Run pytest in a process of its own and give its JSON report."""

    def run(*args: str) -> Mapping[str, Any]:
        path = project.path / "report.json"
        path.unlink(missing_ok=True)
        done = project.runpytest_subprocess(f"--cluster-report={path}", *args)
        assert path.exists(), done.stdout.str() + done.stderr.str()
        loaded: Mapping[str, Any] = json.loads(path.read_text())
        return loaded

    return run
