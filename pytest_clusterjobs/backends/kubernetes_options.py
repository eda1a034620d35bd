"""The options of the backend ``kubernetes``: texts of a profile or of variables, checked before anything is asked."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

#: ``CLUSTERJOBS_KUBERNETES_<OPTION>`` sets an option that no profile sets.
VARIABLE_PREFIX = "CLUSTERJOBS_KUBERNETES_"

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
#: Kind of a volume -> how it is written, and how a pod names it (API reference, "Volume" of core/v1).
_VOLUMES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "pvc": ("pvc:CLAIM:/path", "persistentVolumeClaim", ("claimName",)),
    "hostpath": ("hostpath:/there:/path", "hostPath", ("path",)),
    "nfs": ("nfs:SERVER:/export:/path", "nfs", ("server", "path")),
    "secret": ("secret:NAME:/path", "secret", ("secretName",)),
    "configmap": ("configmap:NAME:/path", "configMap", ("name",)),
    "emptydir": ("emptydir:/path", "emptyDir", ()),
}
_QUANTITY = re.compile(r"(\d+(\.\d*)?|\.\d+)m?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume and where the job sees it."""

    #: The volume's source, as a pod's manifest has it, without its name.
    source: Mapping[str, Any]
    #: Where it is mounted.
    path: str
    #: True: it cannot be written.
    is_read_only: bool


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """How jobs reach a cluster and what their pods are like. Made by `read_options`."""

    #: Path of the kubeconfig, "" for ``KUBECONFIG`` or the usual place.
    kubeconfig: str = ""
    #: Context in it, "" for the current one.
    context: str = ""
    #: Namespace of the jobs, "" for the context's.
    namespace: str = ""
    #: Image with a Python of this one's minor version, called ``python3`` unless the profile says ``python``.
    image: str = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
    #: ``Always``, ``IfNotPresent`` or ``Never``; "" for the cluster's default.
    pull_policy: str = ""
    #: Secrets to pull the image with.
    pull_secrets: tuple[str, ...] = ()
    #: Service account of the pods, "" for the namespace's default.
    service_account: str = ""
    #: Labels that a node must have: ``disk=ssd,zone=a``.
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: Taints that do not matter: ``key=value:NoSchedule,key:NoExecute``, or the JSON list of a manifest.
    tolerations: tuple[Mapping[str, Any], ...] = ()
    #: Volumes: ``pvc:data:/data,hostpath:/scratch:/scratch:ro``.
    volumes: tuple[Mount, ...] = ()
    #: Volume that this machine sees under the same path, with the run's work directory on it: files then travel on it.
    shared_volume: Mount | None = None
    #: Secrets whose every key becomes an environment variable.
    env_from_secrets: tuple[str, ...] = ()
    #: ConfigMaps whose every key becomes one.
    env_from_configmaps: tuple[str, ...] = ()
    #: What a GPU is called.
    gpu_resource: str = "nvidia.com/gpu"
    #: CPUs that a pod asks for where that is not ``cores``, e.g. ``100m`` on a crowded test cluster; the limit stays.
    cpu_request: str = ""

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """All volumes that a pod has besides its own."""
        return self.volumes if self.shared_volume is None else (*self.volumes, self.shared_volume)


OPTION_NAMES = frozenset(each.name for each in dataclasses.fields(KubernetesOptions))


def read_options(options: Mapping[str, str], environment: Mapping[str, str] | None = None) -> KubernetesOptions:
    """Check options.

    Args:
        options: Of a profile.
        environment: Where variables are looked up; None: this process's.

    Raises:
        ConfigError: There is no such option, or a value is wrong; the message has what is allowed.
    """
    given = {**_from_variables(os.environ if environment is None else environment), **options}
    for name in given:
        if name not in OPTION_NAMES:
            raise ConfigError(
                f"kubernetes has no option {name!r}{nearest(name, OPTION_NAMES)}; known: "
                + ", ".join(sorted(OPTION_NAMES))
            )
    values = {name: _READERS.get(name, _text)(name, text.strip()) for name, text in given.items() if text.strip()}
    return KubernetesOptions(**values)


def _from_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Give the options that variables set. Other variables with that beginning are somebody else's: credentials."""
    known = {name: f"{VARIABLE_PREFIX}{name.upper()}" for name in OPTION_NAMES}
    return {name: environment[variable] for name, variable in known.items() if variable in environment}


def _text(name: str, text: str) -> str:
    if any(ord(char) < 33 for char in text):
        raise ConfigError(f"kubernetes: {name}={text!r} must be one word, without blanks and line breaks")
    return text


def _object_name(name: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ConfigError(f"kubernetes: {name} has {text!r}: a name is of small letters, digits, '-' and '.'")
    return text


def _object_names(name: str, text: str) -> tuple[str, ...]:
    return tuple(_object_name(name, word) for word in _words(text))


def _words(text: str) -> Iterable[str]:
    return filter(None, (word.strip() for word in text.split(",")))


def _pull_policy(name: str, text: str) -> str:
    if text not in _PULL_POLICIES:
        raise ConfigError(
            f"kubernetes: {name}={text!r} must be one of {', '.join(_PULL_POLICIES)}{nearest(text, _PULL_POLICIES)}"
        )
    return text


def _cpu(name: str, text: str) -> str:
    if not _QUANTITY.fullmatch(text):
        raise ConfigError(f"kubernetes: {name}={text!r} must be a number of CPUs: 2, 0.5, 100m")
    return text


def _label(name: str, text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ConfigError(f"kubernetes: {name} has {text!r}: letters, digits, '-', '_', '.' and '/' only")
    return text


def _selector(name: str, text: str) -> dict[str, str]:
    found = {}
    for word in _words(text):
        key, separator, value = word.partition("=")
        if not separator:
            raise ConfigError(f"kubernetes: {name} has {word!r}; write label=value,label=value")
        found[_label(name, key)] = _label(name, value) if value else ""
    return found


def _tolerations(name: str, text: str) -> tuple[dict[str, Any], ...]:
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"kubernetes: {name} is no JSON: {error}") from None
        if not all(isinstance(each, dict) for each in found):
            raise ConfigError(f"kubernetes: {name} must be a JSON list of objects, as in a pod's manifest")
        return tuple(found)
    return tuple(_toleration(name, word) for word in _words(text))


def _toleration(name: str, word: str) -> dict[str, Any]:
    taint, _, effect = word.partition(":")
    key, separator, value = taint.partition("=")
    if effect and effect not in _EFFECTS:
        raise ConfigError(
            f"kubernetes: {name} has the effect {effect!r}; allowed: {', '.join(_EFFECTS)}{nearest(effect, _EFFECTS)}"
        )
    found: dict[str, Any] = {"key": _label(name, key), "operator": "Equal" if separator else "Exists"}
    return found | ({"value": value} if separator else {}) | ({"effect": effect} if effect else {})


def _volumes(name: str, text: str) -> tuple[Mount, ...]:
    return tuple(_volume(name, word) for word in _words(text))


def _volume(name: str, word: str) -> Mount:
    kind, *parts = word.split(":")
    if kind not in _VOLUMES:
        raise ConfigError(
            f"kubernetes: {name} has a volume of kind {kind!r}; known: {', '.join(_VOLUMES)}{nearest(kind, _VOLUMES)}"
        )
    is_read_only = parts[-1:] == ["ro"]
    parts = parts[:-1] if is_read_only else parts
    form, source, keys = _VOLUMES[kind]
    if len(parts) != len(keys) + 1 or not all(parts) or not parts[-1].startswith("/"):
        raise ConfigError(f"kubernetes: {name} has {word!r}; write {form}, or {form}:ro for reading only")
    return Mount({source: dict(zip(keys, parts, strict=False))}, parts[-1], is_read_only)


_READERS: Mapping[str, Any] = {
    "kubeconfig": lambda _, text: os.path.expanduser(text),
    "context": lambda _, text: text,
    "namespace": _object_name,
    "pull_policy": _pull_policy,
    "pull_secrets": _object_names,
    "service_account": _object_name,
    "node_selector": _selector,
    "tolerations": _tolerations,
    "volumes": _volumes,
    "shared_volume": _volume,
    "env_from_secrets": _object_names,
    "env_from_configmaps": _object_names,
    "gpu_resource": _label,
    "cpu_request": _cpu,
}
