"""The first process of a job's container, run here: the Secret is a folder, the container's log is a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.backends import kubernetes_manifest as manifest
from pytest_clusterjobs.backends.kubernetes_files import Inbox, Returned, Summary, read_summary, unpack
from pytest_clusterjobs.core.errors import StoreError
from pytest_clusterjobs.node import pod
from pytest_clusterjobs.transports.local import LocalTransport


class Container:
    """A folder for the Secrets, one for the work, and a way to run the bootstrap."""

    def __init__(self, folder: Path) -> None:
        self.payload, self.work, self.home = folder / "payload", folder / "work", folder / "home"
        self.message = folder / "message"
        for place in (self.payload, self.work, self.home):
            place.mkdir()

    def start(
        self,
        argv: list[str],
        files: Mapping[str, bytes] | None = None,
        parts: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        contents = {"job/order.json": b"{}", **(files or {})}
        order = {
            "root": str(self.work),
            "directory": "job",
            "message_file": str(self.message),
            "argv": argv,
            "environment": dict(environment or {}),
            "files": [[name, 1000.0, len(data)] for name, data in contents.items()],
        }
        program = Path(pod.__file__).read_bytes()
        head = b"%08d%s%s\n" % (len(program), program, json.dumps(order).encode())
        packed = zlib.compress(head + b"".join(contents.values()))
        size = -(-len(packed) // parts)
        for number in range(parts):
            (self.payload / f"part{number}").write_bytes(packed[number * size : (number + 1) * size])
        argv = [sys.executable, "-I", "-S", "-c", manifest.BOOTSTRAP, str(self.payload)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, script: str, **environment: str) -> tuple[int, list[bytes]]:
        """Run a shell script as the job, and give the container's exit code and the lines of its log."""
        process = self.start(["sh", "-c", f"cd {self.work}/job; {script}"], environment=environment)
        out, err = process.communicate(timeout=120)
        assert b"Traceback" not in err, err
        return process.returncode, out.splitlines()

    def returned(self, lines: list[bytes]) -> Returned:
        """Take the log in as the client does."""
        inbox = Inbox(LocalTransport(), str(self.home))
        for line in lines:
            inbox.take(line)
        assert inbox.summary is not None
        bundle = inbox.bundle(inbox.summary)
        assert bundle is not None
        returned = unpack(bundle, inbox.summary)
        inbox.close(returned.files)
        return returned


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


#: Enough that cannot be packed that a bundle never fits into a termination message.
NOISE = "head -c 20000 /dev/urandom >result.cj; "


def test_exit_code_output_and_files_come_back(container: Container) -> None:
    code, lines = container.run(NOISE + "echo out; echo err >&2; exit 7")
    returned = container.returned(lines)
    assert (code, returned.exit_code, returned.signal) == (7, 7, None)
    assert returned.files["stdout.log"] == b"out\n"
    assert returned.files["stderr.log"] == b"err\n"
    assert returned.files["result.cj"] == (container.work / "job" / "result.cj").read_bytes()
    assert (container.home / "result.cj").read_bytes() == returned.files["result.cj"]


def test_payload_in_twelve_parts_is_put_together_in_their_order(container: Container) -> None:
    data = os.urandom(100_000)
    process = container.start(["true"], {"job/data": data}, parts=12)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (container.work / "job" / "data").read_bytes() == data
    assert (container.work / "job" / "data").stat().st_mtime == 1000.0
    assert (container.work / "job").stat().st_mode & 0o077 == 0


def test_environment_is_the_container_s_with_the_job_s_above(container: Container) -> None:
    _, lines = container.run(NOISE + 'echo "$CJ_OWN:$PATH:${HOME:+has}:${USER:+has}:$LOGNAME"', CJ_OWN="a b")
    words = container.returned(lines).files["stdout.log"].decode().strip().split(":")
    assert words[0] == "a b"
    assert words[-3:-1] == ["has", "has"]
    assert words[-1]


def test_signal_of_the_job_is_told(container: Container) -> None:
    code, lines = container.run(NOISE + "kill -9 $$")
    returned = container.returned(lines)
    assert (code, returned.exit_code, returned.signal) == (137, None, 9)


def test_output_appears_while_the_job_runs_and_lines_like_ours_are_quoted(container: Container, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = container.start(["sh", "-c", f"echo '0 r 0/1 Zm9y'; printf 'a\\377' >&2; cat {gate}"])
    assert process.stdout is not None
    inbox = Inbox(LocalTransport(), str(container.home))
    for _ in range(2):
        inbox.take(process.stdout.readline().rstrip(b"\n"))
    assert (container.home / "stdout.log").read_bytes() == b"0 r 0/1 Zm9y\n"
    assert (container.home / "stderr.log").read_bytes() == b"a\xff"
    assert inbox.summary is None
    gate.write_text("go")
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_line_that_comes_twice_is_written_once(container: Container) -> None:
    _, lines = container.run(NOISE + "echo one; echo two")
    inbox = Inbox(LocalTransport(), str(container.home))
    for line in [*lines, *lines]:
        inbox.take(line)
    assert (container.home / "stdout.log").read_bytes() == b"one\ntwo\n"


def test_sigterm_is_passed_on_to_the_whole_group_and_what_was_said_comes_back(container: Container) -> None:
    process = container.start(["sh", "-c", "trap 'echo caught; exit 3' TERM; echo ready; sleep 300 & wait"])
    assert process.stdout is not None
    assert b"ready" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert b"o caught" in out


def test_a_job_that_ignores_sigterm_is_killed(container: Container) -> None:
    process = container.start(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    assert process.stdout is not None
    assert b"ready" in process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 137
    assert 1 < time.monotonic() - began < 10


def test_command_that_is_missing_is_a_refusal_with_its_name(container: Container) -> None:
    process = container.start(["no-such-python"])
    process.communicate(timeout=30)
    assert process.returncode == 97
    header = json.loads((container.work / "job" / "result.cj").read_bytes().splitlines()[0])
    assert (header["outcome"], header["why"]) == ("refused", "launch")
    assert "no 'no-such-python'" in header["text"]


def test_much_output_comes_back_by_its_head_and_tail(container: Container) -> None:
    _, lines = container.run("echo first; yes 0123456789abcde | head -c 6000000; echo last")
    returned = container.returned(lines)
    out = returned.files["stdout.log"]
    assert out.startswith(b"first\n0123")
    assert out.endswith(b"last\n")
    left_out = 6_000_011 - pod.LOG_HEAD_BYTES - pod.LOG_TAIL_BYTES
    assert b"[clusterjobs: %d bytes are left out here]" % left_out in out
    assert sum(map(len, lines)) < 9 * 2**20  # or the kubelet would rotate the log


def test_large_bundle_is_sent_again_until_the_pod_is_told_to_end(container: Container) -> None:
    process = container.start(["sh", "-c", f"head -c 6000000 /dev/urandom >{container.work}/job/result.cj"])
    assert process.stdout is not None
    inbox = Inbox(LocalTransport(), str(container.home))
    lost = 0
    for line in process.stdout:
        if lost < 100 and b" r " in line:  # as a rotation would
            lost += 1
            continue
        inbox.take(line.rstrip(b"\n"))
        if inbox.summary is not None and (bundle := inbox.bundle(inbox.summary)) is not None:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert inbox.summary is not None
    assert unpack(bundle or b"", inbox.summary).files["result.cj"][:10]
    assert lost == 100


def test_nothing_is_made_where_no_runtime_takes_a_message(container: Container) -> None:
    process = container.start(["true"])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"no termination message" in err
    assert not container.message.exists()


def test_small_jobs_come_back_whole_in_the_termination_message(container: Container) -> None:
    container.message.touch()
    code, lines = container.run("echo hello; exit 4")
    summary = read_summary(container.message.read_bytes())
    assert summary is not None
    assert summary.bundle is not None
    assert unpack(summary.bundle, summary).files == {"stdout.log": b"hello\n", "stderr.log": b""}
    assert (code, [line for line in lines if b" r " in line]) == (4, [])
    assert len(container.message.read_bytes()) <= pod.MESSAGE_BYTES


# ---------------------------------------------------------------- the client's half alone


def test_what_was_cut_or_forged_is_no_bundle(container: Container) -> None:
    _, lines = container.run(NOISE)
    inbox = Inbox(LocalTransport(), str(container.home))
    for line in lines[:-1]:
        inbox.take(line)
    summary = inbox.summary
    assert summary is not None
    assert inbox.bundle(summary) is None
    assert inbox.missing(summary) == 1
    inbox.take(lines[-1][:-5])
    assert inbox.missing(summary) == 1


@pytest.mark.parametrize("message", ["", "Killed", "[1]", '{"size": 1}', '{"size": "x", "sha256": "", "parts": 1}'])
def test_termination_message_of_somebody_else_is_none(message: str) -> None:
    assert read_summary(message) is None


def test_damaged_bundle_is_refused() -> None:
    with pytest.raises(StoreError, match="checksum"):
        unpack(b"abc", Summary(3, "00", 1))


def test_names_that_lead_elsewhere_are_left_out(container: Container) -> None:
    import hashlib

    header: dict[str, Any] = {"exit_code": 0, "signal": None, "oom": False, "files": [["../x", 1], ["start.json", 2]]}
    bundle = zlib.compress(json.dumps(header).encode() + b"\nX{}")
    returned = unpack(bundle, Summary(len(bundle), hashlib.sha256(bundle).hexdigest(), 1))
    assert returned.files == {"start.json": b"{}"}
