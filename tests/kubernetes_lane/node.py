"""A Kubernetes node in namespaces of its own: the first process there, which starts containerd and the kubelet.

Started by ``cluster.py`` through unshare(1), with its standard input as the line to it: ``kill`` and ``start`` are for
the kubelet, and its end ends all. The kubelet and its helpers write to fixed places below /var and /run, which here are
not the machine's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

_CONTAINERD = """\
version = 2
root = "{run}/cri/root"
state = "{run}/cri/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", \
"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{run}/cri/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  disable_tcp_service = true
  # A root without CAP_SYS_RESOURCE may not lower oom_score_adj, and runc ends without a word.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{rt}/usr/lib/cni"
    conf_dir = "{run}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{rt}/usr/sbin/runc"
        SystemdCgroup = false
"""


def main(run: Path, base: Path, images: Path, port: int) -> int:
    """Start everything below ``run`` and do what standard input says until it closes."""
    _mount(run)
    _write_files(run, base / "rt", port)
    runtime = base / "rt" / "usr"
    path = f"{runtime}/bin:{runtime}/sbin:{os.environ['PATH']}"
    with (run / "log" / "containerd.log").open("ab") as log:
        argv = [str(runtime / "bin" / "containerd"), "-c", str(run / "cri" / "config.toml")]
        subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "PATH": path})
    ctr = [str(runtime / "bin" / "ctr"), "-a", str(run / "cri" / "containerd.sock"), "-n", "k8s.io"]
    deadline = time.monotonic() + 60
    while subprocess.run([*ctr, "version"], capture_output=True, timeout=30, check=False).returncode:
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.05)
    for image in sorted(images.glob("*.tar")):
        subprocess.run([*ctr, "images", "import", str(image)], capture_output=True, timeout=120, check=True)
    kubelet = _start_kubelet(run, base)
    for line in sys.stdin:
        if line.strip() == "kill":
            kubelet.kill()
            kubelet.wait()
        elif line.strip() == "start":
            kubelet = _start_kubelet(run, base)
    return 0


def _mount(run: Path) -> None:
    for name in ("cni", "cri", "kubelet", "var/up", "var/work"):
        (run / name).mkdir(parents=True)
    layers = f"lowerdir=/var,upperdir={run}/var/up,workdir={run}/var/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, "/var"], timeout=30, check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], timeout=30, check=True)


def _write_files(run: Path, rt: Path, port: int) -> None:
    subnet = {"type": "host-local", "dataDir": f"{run}/cni-ipam", "ranges": [[{"subnet": "10.98.0.0/24"}]]}
    bridge = {"type": "bridge", "bridge": "cjlane0", "isGateway": True, "ipMasq": False, "ipam": subnet}
    network = {"cniVersion": "0.4.0", "name": "lane", "plugins": [bridge]}
    (run / "cni" / "10-lane.conflist").write_text(json.dumps(network))
    (run / "cri" / "config.toml").write_text(_CONTAINERD.format(run=run, rt=rt))
    pki = run / "pki"
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": port,
        "healthzPort": 0,
        "readOnlyPort": 0,
        "tlsCertFile": f"{pki}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet-server.key",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "enforceNodeAllocatable": ["pods"],
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "resolvConf": "",
        "nodeStatusUpdateFrequency": "1s",
        "nodeLeaseDurationSeconds": 8,
    }
    (run / "kubelet" / "config.json").write_text(json.dumps(kubelet))


def _start_kubelet(run: Path, base: Path) -> subprocess.Popen[bytes]:
    flags = {
        "kubeconfig": run / "pki" / "node.conf",
        "config": run / "kubelet" / "config.json",
        "root-dir": run / "kubelet" / "root",
        "cert-dir": run / "kubelet" / "pki",
        "hostname-override": "127.0.0.1",  # the one way to an address on loopback
        "container-runtime": "remote",
        "container-runtime-endpoint": f"unix://{run}/cri/containerd.sock",
        "volume-plugin-dir": run / "kubelet" / "plugins",
    }
    with (run / "log" / "kubelet.log").open("ab") as log:
        argv = [str(base / "bin" / "kubelet"), *(f"--{key}={value}" for key, value in flags.items())]
        return subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
