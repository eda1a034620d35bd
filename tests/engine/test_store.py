"""What lies where on disk, whose it is, and what is believed of it."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.core.errors import StoreError
from pytest_clusterjobs.engine import store as stores
from pytest_clusterjobs.engine.store import Store, boot_id, process_start, run_facts
from pytest_clusterjobs.node import runner
from pytest_clusterjobs.transports.local import LocalTransport

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


def make(workdir: Path, worker: str = "main", run_id: str = "0badcafe") -> Store:
    return Store(LocalTransport(), str(workdir), run_id, worker, os.getpid())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = make(tmp_path / "work")
    made.open()
    yield made
    made.close(keep=True)


def mode(path: str | Path) -> int:
    return os.stat(path).st_mode & 0o777


# ---------------------------------------------------------------- directories


def test_what_the_nodes_need_and_cannot_be_copied_is_told_with_what_to_do_each_time(tmp_path: Path) -> None:
    """On a full disk it was shutil's list of triples, and for the next test that a file exists."""
    made = make(tmp_path / "work")
    file = Path(made.lib, "cloudpickle", "cloudpickle.py")
    file.parent.mkdir(parents=True)
    file.symlink_to(tmp_path / "nowhere" / "file")
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"cannot write to {made.root}: .*No such file.*; name another work"):
            made.open()


def test_nothing_is_made_before_it_is_used(tmp_path: Path) -> None:
    made = make(tmp_path / "work")
    assert not made.exists
    assert list(tmp_path.iterdir()) == []


def test_everything_is_for_us_alone(store: Store) -> None:
    previous = os.umask(0)
    try:
        store.make_job(os.path.join(store.directory, "1-x"), {})
        store.write_part(os.path.join(store.directory, "1-x"), "p", b"")
    finally:
        os.umask(previous)
    store.journal("test")
    folders = [store.root, store.directory, store.marks, os.path.join(store.directory, "1-x")]
    files = [os.path.join(store.directory, "journal.jsonl"), os.path.join(store.root, "run.json")]
    files += [os.path.join(store.directory, "1-x", name) for name in ("order.json", "p")]
    assert {mode(path) for path in folders} == {0o700}
    assert {mode(path) for path in files} == {0o600}


def test_work_directory_that_we_make_is_unseen_by_git(store: Store) -> None:
    workdir = Path(store.root).parent
    assert mode(workdir) == 0o700
    assert (workdir / ".gitignore").read_text() == "*\n"


def test_work_directory_that_was_there_is_left_as_it_is(tmp_path: Path) -> None:
    """The mode of a directory such as the user's home was changed, and all in it hidden from git."""
    tmp_path.chmod(0o755)
    made = make(tmp_path)
    made.open()
    assert mode(tmp_path) == 0o755
    assert os.listdir(tmp_path) == ["0badcafe"]
    made.close(keep=False)
    made.remove_run()
    assert tmp_path.is_dir()
    assert os.listdir(tmp_path) == []


def test_repository_that_holds_nothing_but_its_gitignore_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    made = make(tmp_path)
    made.open()
    made.close(keep=False)
    made.remove_run()
    assert os.listdir(tmp_path) == [".gitignore"]


def test_run_directory_open_to_others_is_closed(tmp_path: Path) -> None:
    made = make(tmp_path / "work")
    os.makedirs(made.root, mode=0o777)
    os.chmod(made.root, 0o777)  # noqa: S103 - what is then closed
    made.open()
    assert mode(made.root) == 0o700
    made.close(keep=False)


@is_root
def test_run_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path / "work")
    os.makedirs(made.root)
    os.chown(made.root, 12345, 12345)
    with pytest.raises(StoreError, match=r"not a directory of ours \(owner uid 12345\)"):
        made.open()


@pytest.mark.parametrize("part", ["root", "directory", "marks"])
def test_link_in_place_of_a_directory_is_refused(tmp_path: Path, part: str) -> None:
    made = make(tmp_path / "work")
    path = getattr(made, part)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(StoreError, match="not a directory of ours"):
        made.open()


def test_file_in_place_of_the_work_directory_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("")
    with pytest.raises(StoreError, match=rf"cannot make the directory {tmp_path}/work: "):
        make(tmp_path / "work").open()


def test_workers_share_a_run_and_keep_apart_within_it(tmp_path: Path) -> None:
    workers = [make(tmp_path / "work", name) for name in ("main", "gw0", "gw1")]
    for worker in workers:
        worker.open()
        worker.open()
    assert {worker.root for worker in workers} == {str(tmp_path / "work" / "0badcafe")}
    assert len({worker.directory for worker in workers}) == len({worker.marks for worker in workers}) == 3
    for worker in workers:
        worker.close(keep=False)
    workers[0].remove_run()
    assert not (tmp_path / "work").exists()


def test_many_threads_open_one_store_once(tmp_path: Path) -> None:
    made = make(tmp_path / "work")
    failures: list[BaseException] = []

    def use() -> None:
        try:
            made.open()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    made.close(keep=False)


def test_nodes_are_sent_the_runner_and_cloudpickle_and_no_more(store: Store) -> None:
    folder = os.path.dirname(store.runner)
    assert {name for name in os.listdir(folder) if name != "__pycache__"} == {
        "start.py",
        "runner.py",
        "packing.py",
        "lib",
    }
    assert os.listdir(store.lib) == ["cloudpickle"]


# ---------------------------------------------------------------- envelopes


def envelope(folder: Path, **segments: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "result.cj"
    runner.write_envelope(str(path), {"outcome": "value", "exit_code": 0}, segments, fsync=False)
    return path


def test_envelope_of_the_runner_is_read_whole(store: Store, tmp_path: Path) -> None:
    envelope(tmp_path / "job", value=b"\n\0abc\n", warnings=b"", more=b"x" * 100_000)
    read = store.read_envelope(str(tmp_path / "job"))
    assert read is not None
    assert read[1] == {"value": b"\n\0abc\n", "warnings": b"", "more": b"x" * 100_000}
    assert read[0]["outcome"] == "value"
    assert store.read_header(str(tmp_path / "job")) == read[0]


def test_no_envelope_is_none(store: Store, tmp_path: Path) -> None:
    assert store.read_envelope(str(tmp_path)) is None
    assert store.read_header(str(tmp_path)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:-3] + b"\0\0\0",
        lambda data: b"",
        lambda data: b"\n" + data,
        lambda data: data[: len(data) // 3],
        lambda data: b"[]\nabc",
        lambda data: b"{}\nabc",
        lambda data: b'{"segments": 3, "outcome": "value", "exit_code": 0}\n',
        lambda data: b"\xff\xfe",
    ],
)
def test_damaged_envelope_is_never_unpickled(store: Store, tmp_path: Path, damage: Any) -> None:
    path = envelope(tmp_path / "job", value=pickle.dumps("a value that is long enough to be cut"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=str(path)):
        store.read_envelope(str(tmp_path / "job"))


@pytest.mark.parametrize("line", ["", "[]", "{}", "null", "3", '{"outcome": "exit"}', '{"outcome": "va'])
def test_header_that_is_none_is_an_error_and_no_crash(store: Store, tmp_path: Path, line: str) -> None:
    """A header without its parts raised KeyError in the monitor at each round: the job never ended."""
    (tmp_path / "result.cj").write_text(line + "\n")
    with pytest.raises(StoreError, match="is no envelope"):
        store.read_header(str(tmp_path))


def test_envelope_that_cannot_be_read_is_an_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "result.cj").mkdir()
    with pytest.raises(StoreError, match="cannot read"):
        store.read_envelope(str(tmp_path))


def test_logs_and_json_of_nodes_are_read_as_far_as_they_go(store: Store, tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_bytes(b"one\n\xff two\n")
    (tmp_path / "half.json").write_text('{"a": ')
    assert store.read_log(str(tmp_path), "stdout.log") == "one\n� two\n"
    assert store.read_log(str(tmp_path), "stdout.log", 4) == "two\n"
    assert store.read_log(str(tmp_path), "none.log") == ""
    assert store.read_json(str(tmp_path / "half.json")) is None
    assert store.read_json(str(tmp_path / "none.json")) is None


# ---------------------------------------------------------------- journal and shared values


def test_journal_has_one_line_for_each_event_also_after_a_crash(tmp_path: Path) -> None:
    program = """
import os, sys
from pytest_clusterjobs.engine.store import Store
from pytest_clusterjobs.transports.local import LocalTransport
store = Store(LocalTransport(), sys.argv[1], "0badcafe", "main", os.getpid())
store.open()
store.journal("intent", name="a\\nb", jobs=["1"])
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "work")], check=False)
    lines = (tmp_path / "work" / "0badcafe" / "main" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"event": "intent", "name": "a\nb", "jobs": ["1"]}]


def test_journal_of_a_closed_store_is_quiet(store: Store) -> None:
    store.close(keep=True)
    store.journal("late")
    assert (Path(store.directory) / "journal.jsonl").read_text() == ""


def test_shared_values_are_seen_by_all_workers(store: Store) -> None:
    other = make(Path(store.root).parent, "gw1")
    store.write_shared("x.json", {"a": [1, None]})
    assert other.read_shared("x.json") == {"a": [1, None]}
    assert other.read_shared("y.json") is None


def test_lock_keeps_the_other_worker_out(store: Store) -> None:
    other = make(Path(store.root).parent, "gw1")
    with store.locked("x") as mine, other.locked("x", wait_s=0) as theirs, other.locked("y", wait_s=0) as another:
        assert (mine, theirs, another) == (True, False, True)
    with other.locked("x", wait_s=0) as theirs:
        assert theirs


# ---------------------------------------------------------------- the end


def test_what_is_kept_keeps_the_run_and_marks_it_as_ended(store: Store) -> None:
    store.make_job(os.path.join(store.directory, "1-x"), {})
    store.close(keep=True)
    store.remove_run()
    assert json.loads((Path(store.root) / "run.json").read_text())["is_closed"] is True
    assert os.path.isdir(os.path.join(store.directory, "1-x"))
    assert not os.path.exists(os.path.join(store.root, "shared"))


def test_facts_of_a_run_tell_its_process_from_a_later_one_of_the_same_number() -> None:
    facts = run_facts("0badcafe", os.getpid())
    assert (facts["host"], facts["pid"], facts["uid"]) == (socket.gethostname(), os.getpid(), os.getuid())
    assert facts["pid_started"] == process_start(os.getpid()) is not None
    assert facts["boot_id"] == boot_id() != ""


def test_process_that_has_ended_has_no_start() -> None:
    process = subprocess.Popen(["sleep", "100"])
    assert process_start(process.pid) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(process.pid) is None  # a zombie
    process.wait()
    assert process_start(process.pid) is None


def test_name_of_a_process_may_hold_anything(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 (b"
    os.symlink("/bin/sleep", odd)
    process = subprocess.Popen([str(odd), "100"])
    try:
        assert process_start(process.pid) is not None
    finally:
        process.kill()
        process.wait()


def test_stored_names_are_part_of_the_contract() -> None:
    assert (stores.RUN_FILE, stores.JOURNAL, stores.STDOUT, stores.STDERR) == (
        "run.json",
        "journal.jsonl",
        "stdout.log",
        "stderr.log",
    )
