"""What the API server is sent for a job: a Secret with the job itself, and a Job of one pod that unpacks and runs it.

Pure functions from a submission to manifests. Nothing of a job but its resources is in a manifest: its code, arguments
and environment are in the Secret. Field names and meanings: Kubernetes' API reference, batch/v1 and core/v1, in what
servers from 1.20 on have.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_clusterjobs.backends.base import Submission
from pytest_clusterjobs.backends.kubernetes_options import KubernetesOptions, Mount
from pytest_clusterjobs.core.errors import SubmitError

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

#: Label of everything that is ours.
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "clusterjobs"
#: Label with the run's eight digits.
RUN_LABEL = "clusterjobs/run"
#: Label with a token of the process that submitted it.
SESSION_LABEL = "clusterjobs/session"
#: Label with the Job's name; the server's own on pods is called differently by version.
JOB_LABEL = "clusterjobs/job"
#: Annotation of a Job with the submission's name, which may be no valid name of a Job.
NAME_ANNOTATION = "clusterjobs/name"

#: Name of the container that runs the job.
CONTAINER = "job"

#: A Secret's values together have at most 1 MiB (API reference, "Secret"): so much is put into one.
SECRET_BYTES = 900 * 2**10
#: So many of them, at most, hold a job.
MAX_SECRETS = 20

_MESSAGE_FILE = "/dev/termination-log"
_PAYLOAD, _WORK = "/clusterjobs/payload", "/clusterjobs/run"
_TTL_S = 3600  # for a Job whose client died: the server removes it, where it knows how
_GRACE_S = 5
# How long a pod stays bound to a node that does not answer; 300 s unless a pod says otherwise.
_UNREACHABLE_S = 30
_NODE_TROUBLE = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
_SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
_POD_PROGRAM = Path(__file__).resolve().parent.parent / "node" / "pod.py"
_RUN_ID = re.compile(r"cj-([0-9a-f]{8})-")

#: Fixed: the first process's own program comes with the payload.
BOOTSTRAP = (
    "import os,sys,zlib;d=sys.argv[1];"
    "p=sorted((n for n in os.listdir(d) if n.startswith('part')),key=lambda n:int(n[4:]));"
    "b=zlib.decompress(b''.join(open(os.path.join(d,n),'rb').read() for n in p));"
    "n=int(b[:8]);g={'__name__':'clusterjobs_pod'};exec(compile(b[8:n+8],'pod.py','exec'),g);sys.exit(g['main'](b[n+8:]))"
)

_MODULES = """\
command -v module >/dev/null 2>&1 ||
  for cj_init in /etc/profile.d/lmod.sh /etc/profile.d/modules.sh /usr/share/lmod/lmod/init/sh; do
    [ -r "$cj_init" ] && . "$cj_init" && break
  done"""


def object_name(name: str) -> str:
    """Give the name of a submission's objects: a DNS label, short enough for a label's value, still unique."""
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= 50:
        return plain
    return f"{plain[:41].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_of(name: str) -> str:
    """Give the run that a submission's name, or the beginning of one, is of; "" when it tells of none."""
    match = _RUN_ID.match(name)
    return match[1] if match else ""


def labels(submission: Submission, session: str, native_id: str) -> dict[str, str]:
    """Give the labels of everything that is made for a submission."""
    run = run_of(submission.name)
    return {MANAGED_BY: MANAGER, RUN_LABEL: run, SESSION_LABEL: session, JOB_LABEL: native_id}


def quantity(size_bytes: int) -> str:
    """Write a size as the API reads it, in the largest binary unit that it is a whole number of."""
    power = 0
    while size_bytes % 1024 == 0 and power < len(_SUFFIXES) - 1:
        size_bytes, power = size_bytes // 1024, power + 1
    return f"{size_bytes}{_SUFFIXES[power]}"


def pack(submission: Submission, native_id: str, shared: Mount | None) -> bytes:
    """Pack a job for the first process of its container: that process's program, its order, the job's files.

    Args:
        submission: The job.
        native_id: Its Job's name.
        shared: The volume that its files are on here and there, or None: they are packed too.

    Raises:
        SubmitError: It is too large to go through the API, or its files are not on the shared volume.
    """
    root = os.path.commonpath([os.path.dirname(submission.runner), submission.directory])
    places = (os.path.dirname(submission.runner), submission.directory) if shared is None else ()
    files = [path for place in places for path in sorted(_files(place))]
    there = _WORK if shared is None else _on_volume(root, shared, submission.name)
    command = _command(submission, root, there)
    shell = _shell(submission, command)
    contents = [(os.path.relpath(path, root), os.stat(path).st_mtime, Path(path).read_bytes()) for path in files]
    directory = os.path.relpath(submission.directory, root)
    if shell:
        contents.append((f"{directory}/script.sh", 0.0, shell.encode()))
    order = {
        "root": there,
        "is_shared": shared is not None,
        "message_file": _MESSAGE_FILE,
        "directory": directory,
        "argv": ["sh", f"{there}/{directory}/script.sh"] if shell else command,
        "environment": {**submission.environment, **submission.spec.env, "CLUSTERJOBS_NATIVE_ID": native_id},
        "files": [[name, modified, len(data)] for name, modified, data in contents],
    }
    program = _POD_PROGRAM.read_bytes()
    head = b"%08d%s%s\n" % (len(program), program, json.dumps(order).encode())
    packed = zlib.compress(b"".join([head, *(data for _, _, data in contents)]))
    if len(packed) > SECRET_BYTES * MAX_SECRETS:
        raise SubmitError(
            f"{submission.name}: its function and arguments have {len(packed) / 1e6:.1f} MB when packed, and at most "
            f"{SECRET_BYTES * MAX_SECRETS / 1e6:.1f} MB go through the API server; put data on a volume (option "
            "'volumes') and pass where it is",
            "kubernetes",
        )
    return packed


def _files(place: str) -> Iterable[str]:
    for folder, _, names in os.walk(place):
        # Compiled files are for the Python here; the node's looks at their number, and compiles afresh if it differs.
        if not folder.endswith("cloudpickle/__pycache__"):
            yield from (os.path.join(folder, name) for name in names)


def _on_volume(root: str, shared: Mount, name: str) -> str:
    if not f"{root}/".startswith(f"{shared.path.rstrip('/')}/"):
        raise SubmitError(
            f"{name}: the run's work directory {root} is not on the option 'shared_volume', which is mounted at "
            f"{shared.path}: set workdir to a directory below that",
            "kubernetes",
        )
    return root


def _command(submission: Submission, root: str, there: str) -> list[str]:
    runner, directory = (os.path.relpath(path, root) for path in (submission.runner, submission.directory))
    return [submission.python, "-u", f"{there}/{runner}", f"{there}/{directory}"]


def _shell(submission: Submission, command: list[str]) -> str:
    """Give the script with the lines around a job, for any POSIX shell; "" for a job without any."""
    from shlex import join, quote

    spec = submission.spec
    if not (spec.modules or spec.prologue or spec.epilogue):
        return ""
    lines = [_MODULES] if spec.modules else []
    for module in spec.modules:
        complaint = quote(f"clusterjobs: cannot load the environment module {module}")
        lines.append(f"module load {quote(module)} || {{ echo {complaint} >&2; exit 96; }}")
    lines += [*spec.prologue, join(command), "cj_code=$?"]
    if spec.epilogue:
        lines += ["(", 'export CLUSTERJOBS_EXIT_CODE="$cj_code"', *spec.epilogue, ")"]
    return "\n".join([*lines, 'exit "$cj_code"', ""])


def secrets(native_id: str, packed: bytes, own_labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Give the Secrets that hold a packed job."""
    parts = [packed[start : start + SECRET_BYTES] for start in range(0, len(packed), SECRET_BYTES)]
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{native_id}-{number}", "labels": dict(own_labels)},
            "data": {f"part{number}": base64.b64encode(part).decode()},
        }
        for number, part in enumerate(parts)
    ]


def job(
    submission: Submission, native_id: str, options: KubernetesOptions, own_labels: Mapping[str, str], secret_count: int
) -> dict[str, Any]:
    """Give the Job of a submission."""
    metadata = {"labels": dict(own_labels)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": native_id, **metadata, "annotations": {NAME_ANNOTATION: submission.name}},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": _TTL_S,
            "template": {"metadata": metadata, "spec": _pod(submission, native_id, options, secret_count)},
        },
    }


def _pod(submission: Submission, native_id: str, options: KubernetesOptions, secret_count: int) -> dict[str, Any]:
    spec = submission.spec
    sources = [{"secret": {"name": f"{native_id}-{number}"}} for number in range(secret_count)]
    mounts = [
        {"name": "payload", "mountPath": _PAYLOAD, "readOnly": True},
        {"name": "work", "mountPath": _WORK},
        *(
            {"name": f"volume-{number}", "mountPath": mount.path, "readOnly": mount.is_read_only}
            for number, mount in enumerate(options.mounts)
        ),
    ]
    container = {
        "name": CONTAINER,
        "image": options.image,
        "command": [submission.python, "-I", "-S", "-c", BOOTSTRAP, _PAYLOAD],
        "resources": _resources(submission, options),
        "env": [
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in (
                ("POD_NAME", "metadata.name"),
                ("POD_NAMESPACE", "metadata.namespace"),
                ("NODE_NAME", "spec.nodeName"),
            )
        ],
        "envFrom": [
            *({"secretRef": {"name": name}} for name in options.env_from_secrets),
            *({"configMapRef": {"name": name}} for name in options.env_from_configmaps),
        ],
        "volumeMounts": mounts,
        "terminationMessagePath": _MESSAGE_FILE,
        **({"imagePullPolicy": options.pull_policy} if options.pull_policy else {}),
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [
            {"name": "payload", "projected": {"sources": sources}},
            {"name": "work", "emptyDir": {}},
            *({"name": f"volume-{number}", **mount.source} for number, mount in enumerate(options.mounts)),
        ],
        "tolerations": _tolerations(options),
        **({"activeDeadlineSeconds": math.ceil(spec.time_limit_s)} if spec.time_limit_s else {}),
        **({"nodeSelector": dict(options.node_selector)} if options.node_selector else {}),
        **({"serviceAccountName": options.service_account} if options.service_account else {}),
        **({"imagePullSecrets": [{"name": name} for name in options.pull_secrets]} if options.pull_secrets else {}),
    }


def _resources(submission: Submission, options: KubernetesOptions) -> dict[str, dict[str, str]]:
    spec = submission.spec
    limits = {"cpu": str(spec.cores)}
    if spec.memory_bytes:
        limits["memory"] = quantity(spec.memory_bytes)
    if spec.gpus:
        limits[options.gpu_resource] = str(spec.gpus)
    return {"limits": limits, "requests": {**limits, **({"cpu": options.cpu_request} if options.cpu_request else {})}}


def _tolerations(options: KubernetesOptions) -> list[dict[str, Any]]:
    given = [dict(each) for each in options.tolerations]
    known = {each.get("key") for each in given}
    return given + [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _UNREACHABLE_S}
        for key in _NODE_TROUBLE
        if key not in known
    ]
