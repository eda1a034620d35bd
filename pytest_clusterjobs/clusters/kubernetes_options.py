"""What a throw-away Kubernetes may be asked to be like, and the tools that make one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


@dataclass(frozen=True, slots=True)
class KubernetesClusterOptions:
    """What a throw-away Kubernetes should be like; impossible values raise ``ConfigError`` at once."""

    #: Tells several clusters apart.
    name: str = "default"
    #: ``kind``, ``k3d`` or ``minikube``; "" for the first that is installed.
    tool: str = ""
    #: Image of the node for kind and k3d, or version of Kubernetes for minikube; "" for the tool's own.
    version: str = ""
    #: Images of this machine's container engine that the cluster shall have.
    images: tuple[str, ...] = ()
    #: Where its kubeconfig is; None: in the directory of clusters.
    directory: Path | None = None
    #: Seconds after which a boot is given up.
    boot_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if self.tool and self.tool not in TOOLS:
            raise ConfigError(f"tool={self.tool!r} must be one of {', '.join(TOOLS)}{nearest(self.tool, TOOLS)}")
        for what, text in (("version", self.version), *(("images", image) for image in self.images)):
            if text and not _IMAGE.fullmatch(text):
                raise ConfigError(f"{what} has {text!r}, which is no name of an image or version")
        if self.boot_timeout_s <= 0:
            raise ConfigError(f"boot_timeout_s={self.boot_timeout_s!r} must be more than zero")

    def recorded(self) -> dict[str, Any]:
        """Give the values as JSON holds them."""
        values = {**asdict(self), "images": list(self.images)}
        del values["boot_timeout_s"]
        return {key: os.path.realpath(value) if isinstance(value, Path) else value for key, value in values.items()}


@dataclass(frozen=True, slots=True)
class Tool:
    """How a tool is spoken to: argument lists. ``KUBECONFIG`` in its environment is the cluster's own file."""

    #: Container engines that it can work with, the best first.
    engines: tuple[str, ...]
    #: Gives the command that makes a cluster: its name, the options, the kubeconfig's path.
    create: Callable[[str, KubernetesClusterOptions, str], list[str]]
    #: Gives the command that removes it.
    delete: Callable[[str], list[str]]
    #: Gives the command that brings an image of the engine into it.
    load: Callable[[str, str], list[str]]


def _kind(cluster: str, options: KubernetesClusterOptions, kubeconfig: str) -> list[str]:
    image = ["--image", options.version] if options.version else []
    wait = f"{options.boot_timeout_s:.0f}s"
    return ["kind", "create", "cluster", "--name", cluster, "--kubeconfig", kubeconfig, "--wait", wait, *image]


def _k3d(cluster: str, options: KubernetesClusterOptions, _kubeconfig: str) -> list[str]:
    image = ["--image", options.version] if options.version else []
    return ["k3d", "cluster", "create", cluster, "--wait", "--timeout", f"{options.boot_timeout_s:.0f}s", *image]


def _minikube(cluster: str, options: KubernetesClusterOptions, _kubeconfig: str) -> list[str]:
    version = ["--kubernetes-version", options.version] if options.version else []
    return ["minikube", "start", "--profile", cluster, "--wait", "all", "--interactive=false", *version]


#: By name, in the order in which they are looked for: kind 0.20, k3d 5.6 and minikube 1.32, by their own documentation.
TOOLS: Mapping[str, Tool] = {
    "kind": Tool(
        ("docker", "podman", "nerdctl"),
        _kind,
        lambda cluster: ["kind", "delete", "cluster", "--name", cluster],
        lambda cluster, image: ["kind", "load", "docker-image", image, "--name", cluster],
    ),
    "k3d": Tool(
        ("docker", "podman"),
        _k3d,
        lambda cluster: ["k3d", "cluster", "delete", cluster],
        lambda cluster, image: ["k3d", "image", "import", image, "--cluster", cluster],
    ),
    "minikube": Tool(
        ("docker", "podman"),
        _minikube,
        lambda cluster: ["minikube", "delete", "--profile", cluster],
        lambda cluster, image: ["minikube", "image", "load", image, "--profile", cluster],
    ),
}
