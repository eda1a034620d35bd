"""Build a real Kubernetes 1.20.2, control plane and node, from Debian bookworm's archive; once, into a cache.

The source package ``kubernetes`` of bookworm is upstream's v1.20.2 with everything it needs; Debian builds only kubectl
of it. Go, etcd, containerd, runc and the network plugins are bookworm's packages, unpacked and not installed. It takes
about 4 minutes on two idle cores, 3.2 GB while it builds and 0.5 GB afterwards. Runs as any user.

    python tests/kubernetes_lane/build.py
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

VERSION = "v1.20.2"
_COMMIT = "faecb196815e248d3ecfb03c680a4507229c2a56"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")

_GO = ("golang-1.19-go", "golang-1.19-src")
_REFLECT = "golang-github-modern-go-reflect2-dev"
_RUNTIME = ("containerd", "runc", "containernetworking-plugins")
_NEEDED = ("apt-get", "dpkg-deb", "gcc")
_SOURCES = """\
Types: deb deb-src
URIs: {mirror}
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: {mirror}-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
_BUILD_S = 3600.0


class BuildError(Exception):
    """It cannot be built here; the message says why, and ends with what the failing command said."""


def cache() -> Path:
    """Give the folder that holds, or will hold, what is built: ``bin``, ``etcd``, ``rt`` and ``pause``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "clusterjobs" / "kubernetes" / VERSION


def is_built() -> bool:
    """Tell whether everything is there."""
    return all((cache() / "bin" / name).exists() for name in PROGRAMS) and (cache() / "pause").exists()


def build() -> Path:
    """Build what is missing and give its folder; waits for another process that is at it.

    Raises:
        BuildError: It cannot be built here.
    """
    target = cache()
    if is_built():
        return target
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        raise BuildError(f"building Kubernetes needs {', '.join(missing)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target.parent / "build.lock", _BUILD_S):
        if not is_built():
            scratch = target.with_suffix(".building")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                _build(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


@contextmanager
def alone(path: Path, within_s: float) -> Iterator[None]:
    """Hold a lock that all processes of this machine share.

    Raises:
        BuildError: Another one held it for ``within_s`` seconds.
    """
    deadline = time.monotonic() + within_s
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(f"{path} was held by another process for {within_s:.0f} s") from None
                time.sleep(0.2)
        yield


def _build(scratch: Path, target: Path) -> None:
    apt = _apt(scratch)
    debs = scratch / "debs"
    debs.mkdir()
    _run([*apt, "download", *_GO, _REFLECT, "etcd-server", *_RUNTIME], debs)
    for name in (*_GO, _REFLECT):
        _unpack(debs, name, scratch / "go")
    _unpack(debs, "etcd-server", scratch / "made" / "etcd")
    for name in _RUNTIME:
        _unpack(debs, name, scratch / "made" / "rt")
    source = _source(scratch, apt)
    _compile(scratch, source)
    pause = source / "build" / "pause" / "linux" / "pause.c"
    _run(["gcc", "-Os", "-static", "-s", "-DVERSION=deb", "-o", str(scratch / "made" / "pause"), str(pause)], scratch)
    shutil.rmtree(target, ignore_errors=True)
    (scratch / "made").rename(target)


def _apt(scratch: Path) -> list[str]:
    """Make lists of bookworm's packages and sources, apart from the system's, and give the command that uses them."""
    for folder in ("parts", "lists/partial", "cache/archives/partial"):
        (scratch / "apt" / folder).mkdir(parents=True)
    mirror = os.environ.get("CLUSTERJOBS_DEBIAN_MIRROR", "http://deb.debian.org/debian")
    (scratch / "apt" / "parts" / "bookworm.sources").write_text(_SOURCES.format(mirror=mirror))
    settings = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": scratch / "apt" / "parts",
        "Dir::State::Lists": scratch / "apt" / "lists",
        "Dir::Cache": scratch / "apt" / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    _run([*apt, "update"], scratch)
    return apt


def _unpack(debs: Path, name: str, target: Path) -> None:
    (package,) = debs.glob(f"{name}_*.deb")
    target.mkdir(parents=True, exist_ok=True)
    _run(["dpkg-deb", "-x", str(package), str(target)], debs)


def _source(scratch: Path, apt: Sequence[str]) -> Path:
    """Unpack the source where Go looks for it, with what the compiler of today needs changed."""
    _run([*apt, "source", "--download-only", "kubernetes"], scratch)
    source = scratch / "gopath" / "src" / "k8s.io" / "kubernetes"
    source.mkdir(parents=True)
    (archive,) = scratch.glob("kubernetes_*.orig.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            member.name = member.name.partition("/")[2]
            if member.name:
                tar.extract(member, source, filter="tar")
    # reflect2 1.0.1, which came along, crashes under Go 1.18 and later.
    reflect = Path("github.com/modern-go/reflect2")
    shutil.rmtree(source / "vendor" / reflect)
    shutil.copytree(scratch / "go" / "usr" / "share" / "gocode" / "src" / reflect, source / "vendor" / reflect)
    return source


def _compile(scratch: Path, source: Path) -> None:
    root = scratch / "go" / "usr" / "lib" / "go-1.19"
    environment = {
        **os.environ,
        "GOROOT": str(root),
        "GOPATH": str(scratch / "gopath"),
        "GOCACHE": str(scratch / "gocache"),
        "GO111MODULE": "off",  # with modules, Go 1.19 wants to change go.mod
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
        "PATH": f"{root}/bin:{os.environ['PATH']}",
    }
    generator = str(scratch / "openapi-gen")
    _run(["go", "build", "-o", generator, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"], source, environment)
    _run(_generate(generator, scratch, source), source, environment)
    packages = (
        "k8s.io/kubernetes/vendor/k8s.io/component-base/version",
        "k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version",
    )
    facts = {"gitVersion": VERSION, "gitMajor": "1", "gitMinor": "20", "gitTreeState": "clean", "gitCommit": _COMMIT}
    marks = " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in facts.items())
    target = scratch / "made" / "bin"
    target.mkdir(parents=True)
    commands = [f"./cmd/{name}" for name in PROGRAMS]
    _run(["go", "build", "-trimpath", "-ldflags", f"-s -w {marks}", "-o", f"{target}/", *commands], source, environment)


def _generate(generator: str, scratch: Path, source: Path) -> list[str]:
    """Give the command for the one generated file that is not in the archive."""
    folders = {
        str(path.parent.relative_to(source)).replace("staging/src/", "vendor/")
        for top in ("pkg", "cmd", "plugin", "staging/src/k8s.io")
        for path in (source / top).rglob("*.go")
        if "+k8s:openapi-gen=" in path.read_text(errors="replace")
        and not {"code-generator", "sample-apiserver"} & set(path.parts)
    }
    inputs = ",".join(f"k8s.io/kubernetes/{folder}" for folder in sorted(folders))
    words = {
        "-i": inputs,
        "-p": "k8s.io/kubernetes/pkg/generated/openapi",
        "-O": "zz_generated.openapi",
        "-h": "hack/boilerplate/boilerplate.generatego.txt",
        "-r": "/dev/null",
        "-o": str(scratch / "gopath" / "src"),
    }
    return [generator, *(word for pair in words.items() for word in pair)]


def _run(argv: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            list(argv), cwd=cwd, env=environment, capture_output=True, text=True, timeout=_BUILD_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{argv[0]} did not end within {_BUILD_S:.0f} s") from None
    if done.returncode:
        raise BuildError(f"{' '.join(argv)[:300]} failed with {done.returncode}:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    try:
        print(f"Kubernetes {VERSION}: {build()}")
    except BuildError as error:
        sys.exit(f"Kubernetes cannot be built: {error}")
