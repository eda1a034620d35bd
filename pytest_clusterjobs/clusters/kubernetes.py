"""Throw-away Kubernetes: a cluster in containers of this machine, made and removed by kind, k3d or minikube.

The kubeconfig is the cluster's own: the user's is neither read nor changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from pytest_clusterjobs.clusters import lifecycle, places
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.kubernetes_options import TOOLS, KubernetesClusterOptions
from pytest_clusterjobs.clusters.slurm_programs import run

__all__ = ["KubernetesClusterOptions", "boot", "down", "names", "running", "up"]

#: In the cluster's environment: what made it. Who takes it down must use the same.
_TOOL_VARIABLE = "CLUSTERJOBS_KUBERNETES_TOOL"
_ENGINES = ("docker", "podman", "nerdctl")
_ENGINE_S, _DELETE_S, _LOAD_S = 20.0, 120.0, 300.0
_ANSWERS_WITHIN_S = 20.0


def up(options: KubernetesClusterOptions, *, asked: Collection[str] | None = None) -> RunningCluster:
    """Start a Kubernetes and wait until its node is ready; blocks, for a minute or so.

    Args:
        options: What it should be like.
        asked: The fields in which a cluster that is up already must agree; None: all.

    Raises:
        ConfigError: A cluster of that name is up and differs in a field of ``asked``.
        ClusterBootError: No tool or container engine is installed, or the tool failed; nothing is left of it.
    """

    def start(directory: Path, _first_port: int) -> tuple[Mapping[str, str], str]:
        tool = find_tool(options.tool)
        environment = {**os.environ, "KUBECONFIG": str(directory / "kubeconfig")}
        cluster = _cluster_name(options.name)
        run(TOOLS[tool].delete(cluster), environment, _DELETE_S)  # what a boot that was killed, or did not answer, left
        try:
            argv = TOOLS[tool].create(cluster, options, environment["KUBECONFIG"])
            _run(argv, environment, options.boot_timeout_s + 30)
            for each in options.images:
                _run(TOOLS[tool].load(cluster, each), environment, _LOAD_S)
        except BaseException:  # Ctrl-C too: its containers would stay
            run(TOOLS[tool].delete(cluster), environment, _DELETE_S)
            raise
        image = {"CLUSTERJOBS_KUBERNETES_IMAGE": options.images[0]} if options.images else {}
        own = {"KUBECONFIG": environment["KUBECONFIG"], _TOOL_VARIABLE: tool}
        return {**own, **image}, f"Kubernetes by {tool}"

    return lifecycle.up(_KIND, options, start, asked)


def down(name: str) -> bool:
    """Remove a cluster with all that is in it, and its kubeconfig; False when there was none.

    Raises:
        ClusterBootError: The tool failed, or the cluster is on another machine.
    """
    with places.hold(_KIND.name, name):
        place = places.find(_KIND.name, name)
        record = None if place is None else place.read()
        if place is not None and record is not None and record.environment:
            places.check_here(place)
            tool = find_tool(record.environment[_TOOL_VARIABLE])
            _run(TOOLS[tool].delete(_cluster_name(name)), {**os.environ, **record.environment}, _DELETE_S)
    return lifecycle.down(_KIND, name)


def running() -> list[RunningCluster]:
    """List the Kubernetes clusters that were made on this machine and answer."""
    found = [(place, place.read()) for place in places.every(_KIND.name)]
    return [
        RunningCluster(record.name, record.kind, place.directory, record.environment)
        for place, record in found
        if record is not None and record.environment and not _trouble(record.environment)
    ]


def find_tool(wanted: str = "") -> str:
    """Give the tool to use: the wanted one, or the first that is installed with a container engine that answers.

    Raises:
        ClusterBootError: There is none; the message says what is missing.
    """
    tools = [wanted] if wanted else list(TOOLS)
    installed = [name for name in tools if shutil.which(name) is not None]
    if not installed:
        what = f"{wanted} is not" if wanted else f"none of {', '.join(TOOLS)} is"
        raise ClusterBootError(
            f"a throw-away Kubernetes needs one of {', '.join(TOOLS)} and a container engine ({', '.join(_ENGINES)}), "
            f"and {what} on PATH; install e.g. kind and Docker, or set KUBECONFIG to a cluster that you have"
        )
    reasons = []
    for tool in installed:
        for engine in TOOLS[tool].engines:
            reason = _engine_trouble(engine)
            if not reason:
                return tool
            reasons.append(reason)
    raise ClusterBootError(f"{', '.join(installed)} needs a container engine that answers: {'; '.join(reasons)}")


def _engine_trouble(engine: str) -> str:
    if shutil.which(engine) is None:
        return f"{engine} is not on PATH"
    done = run([engine, "info"], os.environ, _ENGINE_S)
    said = done.stdout.strip().splitlines()
    return "" if done.returncode == 0 else f"{engine} does not answer ({said[-1] if said else done.returncode})"


def _cluster_name(name: str) -> str:
    """Give the name that the tool knows the cluster by: small letters, digits and '-'."""
    return "clusterjobs-" + "".join(char if char.isalnum() else "-" for char in name.lower()).strip("-")


def _run(argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> None:
    done = run(argv, environment, timeout_s)
    if done.returncode:
        raise ClusterBootError(f"{' '.join(argv[:3])} failed with exit code {done.returncode}", done.stdout[-2000:])


def _trouble(environment: Mapping[str, str]) -> str:
    """Ask the cluster's own API server, through the tool's kubectl or the one on PATH, whether it is ready."""
    kubectl = ["minikube", "kubectl", "--"] if environment.get(_TOOL_VARIABLE) == "minikube" else ["kubectl"]
    if shutil.which(kubectl[0]) is None:
        return ""  # nobody to ask: the backend's own probe will tell
    done = run([*kubectl, "get", "--raw", "/readyz"], {**os.environ, **environment}, _ANSWERS_WITHIN_S)
    return "" if done.returncode == 0 else f"it does not answer: {done.stdout.strip()[-300:]}"


_KIND = lifecycle.Kind("kubernetes", 0, _trouble, lambda _pid, _directory: False)
boot = partial(lifecycle.boot, up, KubernetesClusterOptions, "a Kubernetes cluster")
names = partial(lifecycle.names, _KIND)
