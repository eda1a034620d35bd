"""Container images without a registry: an interpreter of this machine, with the libraries it needs, as an OCI archive.

The image's Python is the very one that runs the tests, so that functions can be sent to it; or another one that is
installed here, for the mismatch. Made with the standard library alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

#: Commands that the images have besides Python: what job commands and shell lines in the tests use.
COMMANDS = ("bash", "sh", "cat", "chmod", "echo", "env", "false", "head", "id", "kill", "ls", "mkdir", "printf", "rm")
MORE_COMMANDS = ("seq", "setsid", "sleep", "true", "yes")
_NOT_NEEDED = re.compile(r"/(test|tests|idlelib|ensurepip|tkinter|turtledemo|lib2to3|config-[^/]*|include|share)(/|$)")
_MEDIA = "application/vnd.oci.image"


def python_image(python: str, target: Path, name: str) -> None:
    """Make an image of the Python at the path ``python``, with its whole prefix and the commands above.

    Args:
        python: An interpreter of this machine, not one of a virtual environment.
        target: The archive to be made.
        name: The image's name with its tag, e.g. ``localhost/python:3.13``.
    """
    prefix = Path(_ask(python, "import sys; print(sys.base_prefix)"))
    here = Path(os.path.realpath(_ask(python, "import sys; print(sys._base_executable)")))
    files = {path: path for path in _tree(prefix)} if prefix != Path("/usr") else dict(_debian_python(here))
    programs = [here, *(Path(os.path.realpath(_which(command))) for command in (*COMMANDS, *MORE_COMMANDS))]
    extensions = [path for path in files if ".so" in path.name]
    files.update((path, path) for path in libraries([*programs, *extensions]))
    files.update((Path("/usr/bin") / command, Path(_which(command))) for command in (*COMMANDS, *MORE_COMMANDS))
    files[Path("/usr/local/bin/python3")] = files[here] = here
    write_archive(target, name, ["/usr/local/bin/python3"], files)


def pause_image(program: Path, target: Path, name: str) -> None:
    """Make the image of the process that holds a pod's namespaces, a static program."""
    write_archive(target, name, ["/pause"], {Path("/pause"): program})


def libraries(programs: Iterable[Path]) -> set[Path]:
    """Give the shared libraries that programs and extension modules load, and the loader, as ldd(1) tells."""
    found: set[Path] = set()
    listed = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, timeout=120, check=False)
    for line in listed.stdout.splitlines():
        match = re.search(r"(?:=> )?(/\S+) \(0x", line)
        if match:
            found.add(Path(match[1]))
    return found


def write_archive(target: Path, name: str, command: list[str], files: Mapping[Path, Path]) -> None:
    """Write an OCI archive of one layer, readable by ``ctr images import``; appears whole or not at all.

    Args:
        target: The archive.
        name: The image's name with its tag.
        command: What it runs where a pod says nothing.
        files: Path in the image -> file here. Links to directories at the image's root are those of this machine.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        _write_root(tar)
        for inside, source in sorted(files.items()):
            tar.add(os.path.realpath(source), str(_below_links(inside)).lstrip("/"), recursive=False, filter=_of_root)
    blobs: dict[str, bytes] = {}

    def descriptor(data: bytes, media: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"{_MEDIA}.{media}", "digest": f"sha256:{digest}", "size": len(data)}

    layers = [descriptor(layer.getvalue(), "layer.v1.tar")]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": descriptor(json.dumps(config).encode(), "config.v1+json"),
        "layers": layers,
    }
    entry = descriptor(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    with tarfile.open(temporary, "w") as archive:
        for path, data in blobs.items():
            _add(archive, path, data, 0o644)
    temporary.rename(target)


def _write_root(tar: tarfile.TarFile) -> None:
    for name, mode in {"tmp": 0o1777, "root": 0o700, "etc": 0o755, "proc": 0o555, "sys": 0o555, "dev": 0o755}.items():
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, mode
        tar.addfile(folder)
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, os.readlink(f"/{name}")
            tar.addfile(link)
    _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n", 0o644)
    _add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)


def _add(tar: tarfile.TarFile, path: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = "root"
    return info


def _below_links(path: Path) -> Path:
    """Give the path with a link at its root followed: ``/lib/x`` is ``/usr/lib/x`` where ``/lib`` is a link."""
    root = Path("/") / path.parts[1]
    return Path(os.path.realpath(root)) / Path(*path.parts[2:]) if root.is_symlink() else path


def _tree(prefix: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(prefix / "lib"):
        if not _NOT_NEEDED.search(folder.removeprefix(str(prefix))) and "site-packages" not in folder:
            yield from (Path(folder) / name for name in names if not name.endswith(".a"))


def _debian_python(python: Path) -> Iterator[tuple[Path, Path]]:
    library = Path("/usr/lib") / python.name
    yield from ((path, path) for path in _tree(Path("/usr")) if library in path.parents)


def version_of(python: str) -> str:
    """Give the version of an interpreter, e.g. ``3.13.0``."""
    return _ask(python, "import platform; print(platform.python_version())")


def _ask(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def _which(command: str) -> str:
    for folder in ("/usr/bin", "/bin"):
        if os.path.exists(f"{folder}/{command}"):
            return f"{folder}/{command}"
    raise FileNotFoundError(f"{command} is not installed here, and the image needs it")
