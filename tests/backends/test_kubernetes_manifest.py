"""What the API server is sent for a job."""

from __future__ import annotations

import json
import os
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.backends import kubernetes_manifest as manifest
from pytest_clusterjobs.backends.base import Submission
from pytest_clusterjobs.backends.kubernetes_options import read_options
from pytest_clusterjobs.core.errors import SubmitError
from pytest_clusterjobs.core.spec import make_spec

OWN = {"clusterjobs/run": "0123abcd"}


def submission(folder: Path, **resources: Any) -> Submission:
    job, node = folder / "main" / "1-f", folder / "node"
    for place in (job, node / "lib" / "cloudpickle" / "__pycache__"):
        place.mkdir(parents=True)
    (job / "order.json").write_text('{"x": 1}')
    (node / "start.py").write_text("start")
    (node / "lib" / "cloudpickle" / "__pycache__" / "x.pyc").write_text("compiled")
    return Submission(
        "cj-0123abcd-1-f", make_spec(**resources), (str(job),), str(job), ("mark",), str(node / "start.py"), "python3"
    )


def pod(folder: Path, options: dict[str, str] | None = None, **resources: Any) -> dict[str, Any]:
    made = manifest.job(submission(folder, **resources), "cj-1", read_options(options or {}, {}), OWN, 1)
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


def order_of(packed: bytes) -> tuple[bytes, dict[str, Any], bytes]:
    data = zlib.decompress(packed)
    size = int(data[:8])
    line, _, body = data[8 + size :].partition(b"\n")
    return data[8 : 8 + size], json.loads(line), body


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cj-0123abcd-1-f", "cj-0123abcd-1-f"),
        ("cj-0123abcd-gw0.1-Test_Name", "cj-0123abcd-gw0-1-test-name-"),
        ("cj-0123abcd-1-" + "x" * 60, "cj-0123abcd-1-xxx"),
        ("cj-0123abcd-1-ünïcode", "cj-0123abcd-1--n-code-"),
    ],
)
def test_names_become_labels_that_stay_apart(name: str, expected: str) -> None:
    made = manifest.object_name(name)
    assert made.startswith(expected)
    assert len(made) <= 50
    assert made.strip("abcdefghijklmnopqrstuvwxyz0123456789-") == ""
    assert made != manifest.object_name(name + "2")


def test_names_that_differ_in_case_alone_stay_apart() -> None:
    assert manifest.object_name("cj-0-A") != manifest.object_name("cj-0-a")


@pytest.mark.parametrize(
    ("size", "text"),
    [(2 * 2**30, "2Gi"), (1, "1"), (1025, "1025"), (1536 * 2**20, "1536Mi"), (2**60, "1024Pi"), (10**9, "1000000000")],
)
def test_quantities_are_whole_numbers_of_binary_units(size: int, text: str) -> None:
    assert manifest.quantity(size) == text


def test_pod_asks_for_what_the_job_asked_for(tmp_path: Path) -> None:
    made = pod(tmp_path, cores=2, memory="2GB", time="90.2s", gpus=1)
    limits = {"cpu": "2", "memory": "2Gi", "nvidia.com/gpu": "1"}
    assert made["containers"][0]["resources"] == {"limits": limits, "requests": limits}
    assert made["activeDeadlineSeconds"] == 91
    assert (made["restartPolicy"], made["terminationGracePeriodSeconds"]) == ("Never", 5)


def test_job_is_tried_once_and_marked_as_ours(tmp_path: Path) -> None:
    made = manifest.job(submission(tmp_path), "cj-1", read_options({}, {}), OWN, 1)
    assert made["spec"]["backoffLimit"] == 0
    assert made["metadata"]["annotations"] == {"clusterjobs/name": "cj-0123abcd-1-f"}
    assert made["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"] == OWN


def test_options_reach_the_pod(tmp_path: Path) -> None:
    options = {
        "image": "team/python:1",
        "pull_policy": "Never",
        "pull_secrets": "key",
        "service_account": "worker",
        "node_selector": "disk=ssd",
        "tolerations": "node.kubernetes.io/unreachable",
        "volumes": "pvc:data:/data:ro",
        "env_from_secrets": "s",
        "env_from_configmaps": "c",
        "gpu_resource": "amd.com/gpu",
        "cpu_request": "50m",
    }
    made = pod(tmp_path, options, gpus=2)
    container = made["containers"][0]
    assert (container["image"], container["imagePullPolicy"]) == ("team/python:1", "Never")
    assert container["resources"]["requests"] == {"cpu": "50m", "amd.com/gpu": "2"}
    assert container["resources"]["limits"]["cpu"] == "1"
    assert container["envFrom"] == [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}]
    assert {"name": "volume-0", "mountPath": "/data", "readOnly": True} in container["volumeMounts"]
    assert {"name": "volume-0", "persistentVolumeClaim": {"claimName": "data"}} in made["volumes"]
    assert made["serviceAccountName"] == "worker"
    assert made["nodeSelector"] == {"disk": "ssd"}
    assert made["imagePullSecrets"] == [{"name": "key"}]
    keys = [each["key"] for each in made["tolerations"]]
    assert keys == ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"]


def test_payload_holds_program_order_and_files_and_no_manifest_holds_the_environment(tmp_path: Path) -> None:
    sent = submission(tmp_path, env={"TOKEN": "hush"})
    program, order, body = order_of(manifest.pack(sent, "cj-1", None))
    assert b"def main(payload" in program
    assert order["environment"] == {"TOKEN": "hush", "CLUSTERJOBS_NATIVE_ID": "cj-1"}
    assert order["argv"] == ["python3", "-u", "/clusterjobs/run/node/start.py", "/clusterjobs/run/main/1-f"]
    assert [name for name, _, _ in order["files"]] == ["node/start.py", "main/1-f/order.json"]
    assert body == b'start{"x": 1}'
    assert order["files"][0][1] == os.stat(tmp_path / "node" / "start.py").st_mtime
    assert "hush" not in json.dumps(manifest.job(sent, "cj-1", read_options({}, {}), OWN, 1))


def test_shell_lines_become_a_script_around_the_job(tmp_path: Path) -> None:
    sent = submission(tmp_path, modules=["gcc/13"], prologue="export X=1", epilogue="echo bye")
    _, order, body = order_of(manifest.pack(sent, "cj-1", None))
    assert order["argv"] == ["sh", "/clusterjobs/run/main/1-f/script.sh"]
    script = body[-order["files"][-1][2] :].decode()
    lines = script.splitlines()
    assert lines.index("export X=1") < lines.index("cj_code=$?") < lines.index("echo bye")
    assert "module load gcc/13 || {" in script
    assert lines[-1] == 'exit "$cj_code"'


def test_files_on_a_shared_volume_stay_where_they_are(tmp_path: Path) -> None:
    options = read_options({"shared_volume": f"pvc:jobs:{tmp_path}"}, {})
    sent = submission(tmp_path)
    _, order, body = order_of(manifest.pack(sent, "cj-1", options.shared_volume))
    assert (order["is_shared"], order["files"], body) == (True, [], b"")
    assert order["argv"] == ["python3", "-u", sent.runner, sent.directory]
    spec = manifest.job(sent, "cj-1", options, OWN, 1)["spec"]["template"]["spec"]
    assert {"name": "volume-0", "persistentVolumeClaim": {"claimName": "jobs"}} in spec["volumes"]
    elsewhere = read_options({"shared_volume": "pvc:jobs:/mnt"}, {}).shared_volume
    with pytest.raises(SubmitError, match="set workdir to a directory below that"):
        manifest.pack(sent, "cj-1", elsewhere)


def test_large_payloads_go_into_several_secrets_in_order() -> None:
    packed = os.urandom(2 * manifest.SECRET_BYTES + 10)
    made = manifest.secrets("cj-1", packed, OWN)
    assert [each["metadata"]["name"] for each in made] == ["cj-1-0", "cj-1-1", "cj-1-2"]
    assert b"".join(b64decode(each["data"][f"part{number}"]) for number, each in enumerate(made)) == packed
    assert all(len(json.dumps(each)) < 1.5 * 2**20 for each in made)  # what etcd takes, and the API server


def test_a_payload_that_is_too_large_is_refused_naming_the_way_out(tmp_path: Path) -> None:
    sent = submission(tmp_path)
    Path(sent.directory, "arguments.pkl").write_bytes(os.urandom(manifest.SECRET_BYTES * manifest.MAX_SECRETS + 1))
    with pytest.raises(SubmitError, match=r"at most 18\.4 MB .*\(option 'volumes'\)"):
        manifest.pack(sent, "cj-1", None)


def test_the_run_is_told_by_the_beginning_of_a_name() -> None:
    assert manifest.run_of("cj-0123abcd-gw0.") == "0123abcd"
    assert manifest.run_of("other") == ""
