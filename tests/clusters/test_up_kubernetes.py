"""``up kubernetes``: which tool is taken, what it is told, what is said without one. The tools here only note it.

A container engine is not at hand where these run; what the tools themselves do is theirs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters import base, places
from pytest_clusterjobs.clusters.base import ClusterBootError
from pytest_clusterjobs.core.errors import ConfigError

_NOTING = """\
#!/bin/sh
echo "{name} $*" >>"{log}"
case "$*" in
  *create*|*start*) printf 'kind: Config\\n' >"$KUBECONFIG" ;;
esac
{more}
exit {code}
"""


class Tools:
    """A PATH with programs that note how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"

    def add(self, name: str, code: int = 0, more: str = "") -> None:
        program = self.folder / name
        program.write_text(_NOTING.format(name=name, log=self.log, code=code, more=more))
        program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat"):
        (folder / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CLUSTERJOBS_CLUSTERS_DIR", str(tmp_path / "clusters"))
    return Tools(folder)


def test_nothing_installed_says_what_to_install(tools: Tools) -> None:
    with pytest.raises(
        ClusterBootError, match=r"none of kind, k3d, minikube is on PATH; install e\.g\. kind and Docker"
    ):
        base.up("kubernetes")
    assert places.every("kubernetes") == []


def test_wanted_tool_that_is_missing_is_named(tools: Tools) -> None:
    tools.add("kind")
    with pytest.raises(ClusterBootError, match=r"and k3d is not on PATH"):
        base.up("kubernetes", tool="k3d")


def test_tool_without_an_engine_that_answers_says_why(tools: Tools) -> None:
    tools.add("kind")
    tools.add("podman", code=125, more="echo 'Cannot connect to Podman'")
    said = r"docker is not on PATH; podman does not answer \(Cannot connect to Podman\); nerdctl is not on PATH"
    with pytest.raises(ClusterBootError, match=said):
        base.up("kubernetes")
    assert tools.calls == ["podman info"]


@pytest.mark.parametrize(
    ("tool", "created", "deleted"),
    [
        ("kind", "kind create cluster --name clusterjobs-my-one", "kind delete cluster --name clusterjobs-my-one"),
        ("k3d", "k3d cluster create clusterjobs-my-one --wait", "k3d cluster delete clusterjobs-my-one"),
        ("minikube", "minikube start --profile clusterjobs-my-one", "minikube delete --profile clusterjobs-my-one"),
    ],
)
def test_each_tool_makes_and_removes_a_cluster_with_a_kubeconfig_of_its_own(
    tools: Tools, tool: str, created: str, deleted: str
) -> None:
    tools.add(tool)
    tools.add("docker")
    cluster = base.up("kubernetes", name="My_One")
    kubeconfig = Path(cluster.environment["KUBECONFIG"])
    assert kubeconfig.parent == cluster.directory
    assert kubeconfig.exists()
    assert cluster.environment["CLUSTERJOBS_KUBERNETES_TOOL"] == tool
    assert base.up("kubernetes", name="My_One") == cluster
    assert base.running("kubernetes") == [cluster]
    assert base.down("kubernetes", "My_One") is True
    assert not cluster.directory.exists()
    assert base.down("kubernetes", "My_One") is False
    assert len([call for call in tools.calls if call.startswith(created)]) == 1
    assert tools.calls[-1] == deleted


def test_images_are_brought_into_the_cluster_and_the_first_runs_jobs(tools: Tools) -> None:
    tools.add("kind")
    tools.add("docker")
    cluster = base.up("kubernetes", images=("team/python:1", "other:2"), version="kindest/node:v1.31.0")
    assert cluster.environment["CLUSTERJOBS_KUBERNETES_IMAGE"] == "team/python:1"
    assert "kind load docker-image other:2 --name clusterjobs-default" in tools.calls
    assert any("--image kindest/node:v1.31.0" in call for call in tools.calls)
    base.down("kubernetes")


def test_a_boot_that_fails_is_removed_and_tells_the_tool_s_words(tools: Tools) -> None:
    tools.add("kind", code=1, more="echo 'ERROR: no space left'")
    tools.add("docker")
    with pytest.raises(ClusterBootError, match=r"kind create cluster failed with exit code 1\n.*no space left"):
        base.up("kubernetes")
    assert tools.calls[-1] == "kind delete cluster --name clusterjobs-default"
    assert places.every("kubernetes") == []


def test_a_cluster_that_does_not_answer_is_made_anew(tools: Tools) -> None:
    tools.add("kind")
    tools.add("docker")
    base.up("kubernetes")
    tools.add("kubectl", code=1, more="echo 'connection refused'")
    assert base.running("kubernetes") == []
    base.up("kubernetes")
    kinds = [call.split()[1] for call in tools.calls if call.startswith("kind ")]
    assert kinds == ["delete", "create"] * 2
    base.down("kubernetes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool": "knd"}, "one of kind, k3d, minikube — did you mean 'kind'"),
        ({"version": "a b"}, "no name of an image or version"),
        ({"images": ("--evil",)}, "no name of an image or version"),
        ({"boot_timeout_s": 0}, "more than zero"),
        ({"nodes": 2}, "no option 'nodes'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        base.up("kubernetes", **options)


def test_the_shell_s_command_says_the_same(tools: Tools) -> None:
    argv = [sys.executable, "-c", "from pytest_clusterjobs.cli.main import main; main()", "up", "kubernetes"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 1
    assert "none of kind, k3d, minikube is on PATH" in done.stderr
    assert done.stdout == ""
