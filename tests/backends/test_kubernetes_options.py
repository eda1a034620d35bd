"""The options of the backend kubernetes: what is taken, what is refused and how."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pytest_clusterjobs.backends.base import BackendSettings
from pytest_clusterjobs.backends.kubernetes import KubernetesBackend
from pytest_clusterjobs.backends.kubernetes_options import OPTION_NAMES, KubernetesOptions, read_options
from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.transports.local import LocalTransport


def test_nothing_given_is_the_image_of_this_python() -> None:
    assert read_options({}, {}) == KubernetesOptions()
    assert read_options({}, {}).image == f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def test_variables_set_options_and_a_profile_sets_them_above() -> None:
    environment = {"CLUSTERJOBS_KUBERNETES_IMAGE": "a:1", "CLUSTERJOBS_KUBERNETES_NAMESPACE": "ci", "PATH": "/bin"}
    read = read_options({"image": "b:2"}, environment)
    assert (read.image, read.namespace) == ("b:2", "ci")


def test_variables_that_are_no_options_may_be_credentials_and_are_left_alone() -> None:
    assert read_options({}, {"CLUSTERJOBS_KUBERNETES_TOKEN": "x"}) == KubernetesOptions()


def test_the_backend_reads_them_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="no option 'imaeg' — did you mean 'image'"):
        KubernetesBackend(LocalTransport(), BackendSettings(options={"imaeg": "x"}))
    assert "image" in KubernetesBackend.option_names
    assert KubernetesBackend.option_names == OPTION_NAMES


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("node_selector", "disk=ssd, zone=a", {"disk": "ssd", "zone": "a"}),
        ("node_selector", "node-role.kubernetes.io/ci=", {"node-role.kubernetes.io/ci": ""}),
        ("pull_policy", "Always", "Always"),
        ("pull_secrets", "one,two", ("one", "two")),
        ("cpu_request", "100m", "100m"),
        ("tolerations", "gpu:NoSchedule", ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},)),
        ("tolerations", "team=ci", ({"key": "team", "operator": "Equal", "value": "ci"},)),
        ("tolerations", '[{"operator": "Exists"}]', ({"operator": "Exists"},)),
        ("context", "name with blanks", "name with blanks"),
        ("image", "", KubernetesOptions().image),
    ],
)
def test_texts_become_values(name: str, text: str, value: Any) -> None:
    assert getattr(read_options({name: text}, {}), name) == value


@pytest.mark.parametrize(
    ("text", "source", "path", "is_read_only"),
    [
        ("pvc:data:/data", {"persistentVolumeClaim": {"claimName": "data"}}, "/data", False),
        ("hostpath:/srv:/mnt:ro", {"hostPath": {"path": "/srv"}}, "/mnt", True),
        ("nfs:filer:/export:/mnt", {"nfs": {"server": "filer", "path": "/export"}}, "/mnt", False),
        ("secret:key:/keys", {"secret": {"secretName": "key"}}, "/keys", False),
        ("configmap:conf:/etc/x", {"configMap": {"name": "conf"}}, "/etc/x", False),
        ("emptydir:/scratch", {"emptyDir": {}}, "/scratch", False),
    ],
)
def test_volumes_of_each_kind(text: str, source: dict[str, Any], path: str, is_read_only: bool) -> None:
    (mount,) = read_options({"volumes": text}, {}).volumes
    assert (mount.source, mount.path, mount.is_read_only) == (source, path, is_read_only)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("pull_policy", "Allways", r"one of Always, IfNotPresent, Never — did you mean '[Aa]lways'"),
        ("namespace", "Team_A", "small letters"),
        ("image", "a\nb", "one word"),
        ("node_selector", "ssd", "label=value"),
        ("node_selector", "a b=c", "letters, digits"),
        ("tolerations", "key:NoSchedul", "PreferNoSchedule, NoExecute — did you mean '(?i:noschedule)'"),
        ("tolerations", "[1]", "list of objects"),
        ("tolerations", "[", "no JSON"),
        ("volumes", "pv:claim:/data", "known: pvc, hostpath, nfs, secret, configmap, emptydir — did you mean 'pvc'"),
        ("volumes", "pvc:claim", "write pvc:CLAIM:/path"),
        ("volumes", "pvc:claim:data", "write pvc:CLAIM:/path"),
        ("cpu_request", "lots", "a number of CPUs"),
        ("env_from_secrets", "Big", "small letters"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(name: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_options({name: text}, {})
