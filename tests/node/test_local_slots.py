"""The shared cores: all or none, in turn, and free when their holder is dead."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_clusterjobs.node import local_slots
from pytest_clusterjobs.node.local_slots import Slots, secure_folder


class Machine:
    """Four cores and the servers that share them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Slots] = []

    def server(self) -> Slots:
        self.servers.append(Slots(str(self.folder / "slots"), [0, 1, 2, 3], f"server{len(self.servers)}"))
        return self.servers[-1]

    def tickets(self) -> list[Path]:
        return sorted(path for path in (self.folder / "slots" / "queue").iterdir() if path.name[0].isdigit())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    for server in made.servers:
        server.leave_queue()
        for lock in server.locks:
            os.close(lock)


def test_cores_are_given_once(machine: Machine) -> None:
    first, second = machine.server(), machine.server()
    assert first.claim(3) == [0, 1, 2]
    assert second.claim(1) == [3]
    assert second.claim(1) is None
    first.give_back([1])
    assert second.claim(1) == [1]


def test_all_or_none_is_taken(machine: Machine) -> None:
    first, second = machine.server(), machine.server()
    assert first.claim(2) == [0, 1]
    assert second.claim(3) is None
    second.leave_queue()
    assert first.claim(2) == [2, 3]


def test_server_that_starts_while_another_makes_a_ticket_does_no_harm(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removed the ticket, not yet locked, as a dead server's; to rename it then ended the other server."""
    first, second = machine.server(), machine.server()
    first.claim(4)
    flock = fcntl.flock

    def start_another_first(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and len(machine.servers) == 2:
            machine.server()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", start_another_first)
    assert second.claim(1) is None
    assert len(machine.servers) == 3
    assert [ticket.name.partition("-")[2] for ticket in machine.tickets()] == ["server1"]


def test_who_waits_longest_goes_first(machine: Machine) -> None:
    first, second, third = machine.server(), machine.server(), machine.server()
    held = first.claim(4)
    assert held is not None
    assert second.claim(4) is None
    assert third.claim(1) is None
    first.give_back(held[:2])
    assert third.claim(1) is None, "one that came later may not go before"
    assert first.claim(1) is None, "nor may the one that has just given back"
    first.give_back(held[2:])
    assert third.claim(1) is None
    assert second.claim(4) == [0, 1, 2, 3]


def test_ticket_of_a_dead_server_is_ignored_and_removed(machine: Machine) -> None:
    first = machine.server()
    held = first.claim(4)
    assert held is not None
    pid = os.fork()
    if pid == 0:
        machine.server().claim(4)
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(machine.tickets()) == 1
    first.give_back(held)
    assert first.claim(1) == [0]
    assert machine.tickets() == []


def test_stopped_server_does_not_hold_up_the_others(machine: Machine) -> None:
    first, stopped = machine.server(), machine.server()
    held = first.claim(4)
    assert held is not None
    assert stopped.claim(4) is None
    first.give_back(held)
    assert first.claim(1) is None
    long_ago = time.time() - local_slots.STALE_S - 1
    os.utime(machine.tickets()[0], (long_ago, long_ago))
    assert first.claim(1) == [0]
    assert stopped.claim(4) is None


def test_waiting_server_is_woken(machine: Machine) -> None:
    import select

    first, second = machine.server(), machine.server()
    held = first.claim(4)
    assert held is not None
    assert second.claim(1) is None
    assert second.watch >= 0
    assert not select.select([second.watch], [], [], 0)[0]
    first.give_back(held)
    assert select.select([second.watch], [], [], 5)[0]


@pytest.mark.parametrize("what", ["link", "open to others", "file"])
def test_folder_that_is_not_ours_alone_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "slots"
    if what == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "file":
        path.touch(mode=0o600)
    else:
        path.mkdir(mode=0o770)
        path.chmod(0o770)
    with pytest.raises(PermissionError, match="must be a directory of uid"):
        secure_folder(str(path))
