"""Boot a real Kubernetes on loopback: etcd, API server, controllers, scheduler and one node. Root only, one at a time.

python tests/kubernetes_lane/cluster.py     boots one, says what to export, and ends it with its standard input
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.kubernetes_lane import build, images, pki
else:
    from kubernetes_lane import build, images, pki

_BOOT_S, _STOP_S, _TURN_S = 120.0, 10.0, 1800.0
_PR_SET_PDEATHSIG = 1
#: What the kubelet and its network plugins change of the machine; put back at the end.
_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
)
# Once a second, as fast as it goes, is how often a pod that found no room is looked at again; 10 s otherwise.
_SCHEDULER = {
    "apiVersion": "kubescheduler.config.k8s.io/v1beta1",
    "kind": "KubeSchedulerConfiguration",
    "podInitialBackoffSeconds": 1,
    "podMaxBackoffSeconds": 1,
}
_GATE = "--feature-gates=TTLAfterFinished=true"
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata", "users": ["admin"]}, {"level": "None"}],
}

#: The image whose Python is the tests' own.
IMAGE = f"localhost/python:{sys.version_info[0]}.{sys.version_info[1]}"


class LaneError(Exception):
    """The cluster cannot be started here; the message says why."""


def why_not() -> str:
    """Say why no cluster can be started here, or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Kubernetes node needs root, on Linux"
    missing = [name for name in ("unshare", "mount", "ip", "openssl") if shutil.which(name) is None]
    return f"a Kubernetes node needs {', '.join(missing)}" if missing else ""


class Cluster:
    """A running cluster. Made by `booted`."""

    def __init__(self, base: Path, run: Path) -> None:
        self._base, self._run = base, run
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = _free_ports(6)
        self._sysctls = {name: Path("/proc/sys", name).read_text() for name in _SYSCTLS}
        #: The API server's address.
        self.server = f"https://127.0.0.1:{self._ports[0]}"
        #: The folder of kubectl and the servers.
        self.programs = base / "bin"
        #: The administrator's kubeconfig.
        self.kubeconfig = run / "pki" / "admin.conf"
        #: One line of JSON for each request of the administrator.
        self.audit_log = run / "log" / "audit.log"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process must have in its environment to use it."""
        return {"KUBECONFIG": str(self.kubeconfig), "CLUSTERJOBS_KUBERNETES_IMAGE": IMAGE}

    def boot(self) -> None:
        """Start everything and wait until the node is ready."""
        (self._run / "log").mkdir()
        pki.make(self._run / "pki", self.server)
        (self._run / "audit.json").write_text(json.dumps(_AUDIT))
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports[1:3])
        etcd = {
            "data-dir": self._run / "etcd",
            "unsafe-no-fsync": "true",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        self._start("etcd", [str(self._base / "etcd/usr/bin/etcd"), *_flags(etcd)])
        self._start_node()  # comes up while the others do
        self.start_api_server()
        self._start_control()
        self.wait_for("the node to be ready", self._is_node_ready)

    def start_api_server(self) -> None:
        """Start the API server, on the same data if there was one before, and wait until it answers."""
        own = self._run / "pki"
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self._ports[1]}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": self._ports[0],
            "endpoint-reconciler-type": "none",  # endpoints may not be on loopback
            "service-cluster-ip-range": "10.96.0.0/24",
            "client-ca-file": own / "ca.crt",
            "tls-cert-file": own / "apiserver.crt",
            "tls-private-key-file": own / "apiserver.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": own / "sa.pub",
            "service-account-signing-key-file": own / "sa.key",
            "kubelet-client-certificate": own / "kubelet-client.crt",
            "kubelet-client-key": own / "kubelet-client.key",
            "kubelet-certificate-authority": own / "ca.crt",
            "kubelet-preferred-address-types": "InternalIP",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "audit-policy-file": self._run / "audit.json",
            "audit-log-path": self.audit_log,
        }
        self._start("kube-apiserver", [self._program("kube-apiserver"), *_flags(flags), _GATE])
        self.wait_for("the API server", lambda: self.kubectl("get", "--raw", "/readyz", check=False) == "ok")

    def _start_control(self) -> None:
        own = self._run / "pki"
        scheduler = {
            **_SCHEDULER,
            "clientConnection": {"kubeconfig": str(own / "scheduler.conf")},
            "leaderElection": {"leaderElect": False},
        }
        (self._run / "scheduler.json").write_text(json.dumps(scheduler))
        for name, who, port in (("kube-controller-manager", "kcm", 3), ("kube-scheduler", "scheduler", 4)):
            flags = {
                **{f"{kind}kubeconfig": own / f"{who}.conf" for kind in ("authentication-", "authorization-")},
                "bind-address": "127.0.0.1",
                "secure-port": self._ports[port],
                "port": 0,
            }
            if who == "scheduler":
                flags["config"] = self._run / "scheduler.json"
            else:
                flags |= {
                    "kubeconfig": own / "kcm.conf",
                    "leader-elect": "false",
                    "use-service-account-credentials": "true",  # its own user may not do what the controllers do
                    "service-account-private-key-file": own / "sa.key",
                    "root-ca-file": own / "ca.crt",
                    "cluster-signing-cert-file": own / "ca.crt",
                    "cluster-signing-key-file": own / "ca.key",
                    "flex-volume-plugin-dir": self._run / "flex",
                    "feature-gates": "TTLAfterFinished=true",
                    "node-monitor-period": "1s",
                    "node-monitor-grace-period": "10s",
                }
            self._start(name, [self._program(name), *_flags(flags)])
        self.wait_for("the service account", lambda: bool(self.kubectl("get", "sa", "default", check=False)))

    def _start_node(self) -> None:
        folder = self._run / "images"
        folder.mkdir()
        for image in _images(self._base):
            (folder / image.name).symlink_to(image)
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        program = [sys.executable, "-I", str(Path(__file__).with_name("node.py"))]
        places = [str(self._run), str(self._base), str(folder), str(self._ports[5])]
        self._start("node", [*unshare, *program, *places], stdin=subprocess.PIPE)

    def _is_node_ready(self) -> bool:
        path = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
        return self.kubectl("get", "nodes", "-o", path, check=False) == "True"

    # ------------------------------------------------------------ what tests do to it

    def kubectl(self, *words: str, check: bool = True, timeout_s: float = 60.0) -> str:
        """Run kubectl as the administrator and give what it printed."""
        argv = [
            self._program("kubectl"),
            "--kubeconfig",
            str(self.kubeconfig),
            f"--cache-dir={self._run}/cache",
            *words,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and done.returncode:
            raise LaneError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        argv = [self._program("kubectl"), "--kubeconfig", str(self.kubeconfig), f"--cache-dir={self._run}/cache"]
        subprocess.run([*argv, "apply", "-f", "-"], input=text, text=True, capture_output=True, timeout=60, check=True)

    def kubeconfig_of(self, account: str, namespace: str, path: Path) -> Path:
        """Write a kubeconfig for a service account, with its token."""
        name = self.kubectl("-n", namespace, "get", "sa", account, "-o", "jsonpath={.secrets[0].name}")
        raw = self.kubectl("-n", namespace, "get", "secret", name, "-o", "go-template={{.data.token | base64decode}}")
        path.write_text(pki.kubeconfig(self._run / "pki", self.server, {"token": raw}, namespace))
        return path

    def make_team(self, name: str, rules: list[dict[str, list[str]]], path: Path) -> Path:
        """Make a namespace with an account that may do what the rules say, and give its kubeconfig."""
        meta = {"name": "worker", "namespace": name}
        rbac = "rbac.authorization.k8s.io"
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
            {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": meta,
                "subjects": [{"kind": "ServiceAccount", **meta}],
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "worker"},
            },
        )
        ready = ("-n", name, "get", "sa", "worker", "-o", "jsonpath={.secrets[0].name}")
        self.wait_for("a token", lambda: bool(self.kubectl(*ready, check=False)), 30)
        return self.kubeconfig_of("worker", name, path)

    def make_quota(self, namespace: str, **hard: str) -> None:
        """Make a namespace with a quota that is in force; ``count_jobs.batch`` stands for ``count/jobs.batch``."""
        meta = {"name": "q", "namespace": namespace}
        spec = {"hard": {name.replace("_", "/"): value for name, value in hard.items()}}
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
            {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": spec},
        )
        words = ("-n", namespace, "get", "resourcequota", "q", "-o", "jsonpath={.status.hard}")
        self.wait_for("the quota", lambda: "{" in self.kubectl(*words, check=False), 30)
        account = ("-n", namespace, "get", "sa", "default")
        self.wait_for("the account", lambda: bool(self.kubectl(*account, check=False)), 30)

    def kill_api_server(self) -> None:
        """Kill the API server with SIGKILL."""
        self._stop("kube-apiserver", signal.SIGKILL)

    def tell_node(self, word: str) -> None:
        """Tell the node to ``kill`` or to ``start`` its kubelet."""
        line = self._processes["node"].stdin
        assert line is not None
        line.write(f"{word}\n".encode())
        line.flush()

    def requests(self) -> list[dict[str, Any]]:
        """Give the requests of the administrator so far, as the API server's audit log has them."""
        lines = self.audit_log.read_text().splitlines() if self.audit_log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for(self, what: str, condition: Callable[[], bool], within_s: float = _BOOT_S) -> None:
        """Wait until something is true; raises `LaneError` with the daemons' last words after ``within_s`` seconds."""
        deadline = time.monotonic() + within_s
        while not condition():
            dead = [name for name, each in self._processes.items() if each.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise LaneError(f"waited for {what}; dead: {dead or 'none'}\n{self._last_words(dead)}")
            time.sleep(0.05)

    # ------------------------------------------------------------ processes

    def _program(self, name: str) -> str:
        return str(self._base / "bin" / name)

    def _start(self, name: str, argv: list[str], stdin: int = subprocess.DEVNULL) -> None:
        with (self._run / "log" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=log,
                stderr=log,
                cwd=self._run,
                start_new_session=True,
                preexec_fn=_die_with_us,
            )

    def _stop(self, name: str, number: int) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)
        if process.stdin is not None:
            process.stdin.close()

    def _last_words(self, names: list[str]) -> str:
        found = []
        for name in names or ["kube-apiserver", "node", "kubelet"]:
            with suppress(OSError):
                found += [
                    f"{name}: {line}" for line in (self._run / "log" / f"{name}.log").read_text().splitlines()[-5:]
                ]
        return "\n".join(found)

    def stop(self) -> None:
        """End every process, and put back what the node changed of the machine."""
        self._stop("node", signal.SIGKILL)  # unshare, and with it everything that it holds
        for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            self._stop(name, signal.SIGTERM)
        clean_machine()
        for name, text in self._sysctls.items():
            with suppress(OSError):
                Path("/proc/sys", name).write_text(text)


def clean_machine() -> None:
    """Remove the control groups and the network bridge that a node leaves; those of one that was killed, too."""
    deadline = time.monotonic() + _STOP_S
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    while (left := [top / "kubepods" for top in tops if (top / "kubepods").is_dir()]) and time.monotonic() < deadline:
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
        time.sleep(0.05)
    subprocess.run(["ip", "link", "del", "cjlane0"], capture_output=True, timeout=30, check=False)


def _images(base: Path) -> Iterator[Path]:
    """Make the images that are missing: the pause process, this Python, and another Python for the mismatch."""
    folder = base / "images"
    folder.mkdir(exist_ok=True)
    pause = folder / "pause.tar"
    if not pause.exists():
        images.pause_image(base / "pause", pause, "localhost/pause:1")
    yield pause
    for python in (sys.executable, other_python()):
        if python is not None:
            version = images.version_of(python)
            archive = folder / f"python-{version}.tar"
            if not archive.exists():
                images.python_image(python, archive, f"localhost/python:{'.'.join(version.split('.')[:2])}")
            yield archive


def other_python() -> str | None:
    """Give the system's Python if it is of another minor version than this one; else None."""
    python = "/usr/bin/python3"
    is_other = os.path.exists(python) and images.version_of(python).split(".")[1] != str(sys.version_info[1])
    return python if is_other else None


def _flags(flags: Mapping[str, object]) -> list[str]:
    return [f"--{key}={value}" for key, value in flags.items()]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def booted() -> Iterator[Cluster]:
    """Give a running cluster, and end it; builds it first where that has not been done. Waits for another one's end.

    Raises:
        LaneError: It cannot be started here.
        build.BuildError: It cannot be built here.
    """
    if reason := why_not():
        raise LaneError(reason)
    base = build.build()
    with build.alone(base.parent / "node.lock", _TURN_S):
        clean_machine()
        run = Path(
            tempfile.mkdtemp(prefix="clusterjobs-kubernetes-", dir="/tmp")
        )  # not below /var or /run: see node.py
        cluster = Cluster(base, run)
        try:
            cluster.boot()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    with booted() as up:
        for key, value in up.environment.items():
            print(f"export {key}={value}", flush=True)
        sys.stdin.read()
