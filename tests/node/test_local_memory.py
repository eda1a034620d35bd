"""Memory limits: what the kernel's files say, and what is left of dead servers' groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_clusterjobs.node import local_memory, local_tree
from pytest_clusterjobs.node.local_memory import GroupLimit, WatchLimit


@pytest.mark.parametrize(
    ("version", "events", "peak"),
    [
        (1, ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"), "memory.max_usage_in_bytes"),
        (2, ("memory.events", "low 0\nhigh 0\nmax 12\noom 1\noom_kill {}\noom_group_kill 0\n"), "memory.peak"),
    ],
)
def test_kill_by_the_kernel_is_seen(tmp_path: Path, version: int, events: tuple[str, str], peak: str) -> None:
    limit = GroupLimit(str(tmp_path), version, 64 << 20)
    assert limit.exceeded() == ""
    (tmp_path / events[0]).write_text(events[1].format(0))
    assert limit.exceeded() == ""
    (tmp_path / events[0]).write_text(events[1].format(1))
    (tmp_path / peak).write_text(f"{63 << 20}\n")
    assert limit.exceeded() == "used 63 MiB of the 64 MiB asked for (memory)"


def test_only_groups_of_dead_servers_are_removed(tmp_path: Path) -> None:
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    ours = tmp_path / f"clusterjobs-{os.getpid()}-{started}-1"
    names = [f"clusterjobs-{os.getpid()}-{int(started) + 1}-1", f"clusterjobs-{1 << 30}-5-1", "clusterjobs-odd"]
    full = tmp_path / f"clusterjobs-{1 << 30}-6-1"
    for folder in [ours, full, tmp_path / "somebody", *(tmp_path / name for name in names)]:
        folder.mkdir()
    (full / "process").touch()
    local_memory._remove_leftovers(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {ours.name, full.name, "somebody"}


def test_watching_sees_the_processes_below() -> None:
    code = "a = bytearray(64 << 20); a[::4096] = b'x' * len(a[::4096]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in local_tree.descendants()
        assert WatchLimit(60 << 20).exceeded().endswith("of the 60 MiB asked for (memory)")
        assert local_tree.sum_memory([child.pid], 1 << 40) > 64 << 20
        child.kill()
    assert child.pid not in local_tree.descendants()
    assert local_tree.sum_memory([child.pid], 1 << 40) == 0
