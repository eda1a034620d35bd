"""A node to put on the bench: packs a call as the engine does, and runs it with the runner alone, in any Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_clusterjobs
from pytest_clusterjobs.engine.outcome import rebuild_exception
from pytest_clusterjobs.engine.payload import Payload, checksum, loads, pack, shipped_library

NODE = Path(pytest_clusterjobs.__file__).parent / "node"
#: The interpreter below the virtual environment: it has the standard library, and neither us nor pytest.
BARE_PYTHON = os.path.join(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")


@dataclass(frozen=True)
class Finished:
    """How a job ended on the node."""

    code: int
    stdout: str
    stderr: str
    #: The envelope's header; {} when there is no envelope.
    header: dict[str, Any]
    segments: dict[str, bytes]

    def value(self) -> Any:
        """Give the value, or raise what the job raised."""
        assert self.header, f"no envelope: {self.stderr}"
        if self.header["outcome"] == "exception":
            raise rebuild_exception(self.header, self.segments, "job")
        assert self.header["outcome"] == "value", self.header
        return loads(self.segments["value"])


class Node:
    """A directory with what a run ships, and jobs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lib = root / "lib"
        self.runner = root / "node" / "start.py"
        shutil.copytree(shipped_library(), self.lib / "cloudpickle", ignore=shutil.ignore_patterns("__pycache__"))
        self.runner.parent.mkdir()
        for name in ("start.py", "runner.py", "packing.py"):
            shutil.copy(NODE / name, self.runner.parent / name)
        self.job = root / "job"
        self.job.mkdir()

    def order(self, **facts: Any) -> None:
        """Write the order of the job."""
        python = list(sys.version_info[:2])
        complete = {"protocol": 1, "python": python, "lib": str(self.lib), "job_id": "1", "label": "x", "fsync": False}
        (self.job / "order.json").write_text(json.dumps({**complete, "cwd": str(self.job), **facts}))

    def put(self, name: str, data: bytes) -> dict[str, str]:
        """Write a pickle of the job and give how the order refers to it."""
        (self.job / name).write_bytes(data)
        return {"path": str(self.job / name), "sha256": checksum(data)}

    def put_call(self, payload: Payload, **facts: Any) -> None:
        """Write the order of a packed call."""
        function, arguments = self.put("function", payload.function), self.put("arguments", payload.arguments[0])
        self.order(kind="call", function=function, arguments=arguments, home=list(payload.home), **facts)

    def start(self, python: str = BARE_PYTHON, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the runner."""
        return subprocess.Popen(
            [python, "-u", str(self.runner), str(self.job)],
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> Finished:
        """Wait for the runner's end and read what it left."""
        try:
            stdout, stderr = process.communicate(timeout=30)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return Finished(process.returncode, stdout, stderr, *self.envelope())

    def envelope(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Read the envelope; empty when there is none."""
        path = self.job / "result.cj"
        if not path.exists():
            return {}, {}
        line, _, body = path.read_bytes().partition(b"\n")
        header = json.loads(line)
        segments, offset = {}, 0
        for name, size in header["segments"]:
            segments[name] = body[offset : offset + size]
            offset += size
        assert offset == len(body)
        assert checksum(body) == header["sha256"]
        return header, segments

    def run(self, python: str = BARE_PYTHON, env: Mapping[str, str] | None = None) -> Finished:
        """Run the job to its end."""
        return self.finish(self.start(python, env))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Finished:
        """Pack a call and run it."""
        self.put_call(pack(function, [(args, kwargs)], getattr(function, "__name__", "function")))
        return self.run()

    def command(self, *argv: str, env: Mapping[str, str] | None = None) -> Finished:
        """Run a command as a job."""
        self.order(kind="command", argv=list(argv))
        return self.run(env=env)
