"""Files that stay are as they were but for secrets, and a note says which are not."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from pytest_clusterjobs.core.redaction import Secret
from pytest_clusterjobs.engine.scrubbing import NOTE, scrub

TEXT = "of-nobody-scrubbed"


@pytest.fixture(autouse=True)
def secret() -> Secret:
    return Secret(TEXT, "TOKEN")


def test_a_secret_is_replaced_and_all_else_stays(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    log, other, script = tmp_path / "0" / "stdout.log", tmp_path / "0" / "stderr.log", tmp_path / "script.sh"
    log.write_bytes(b"first\r\n\xff " + TEXT.encode() * 2 + b" \0\nlast")
    other.write_text("nothing")
    script.write_text(f"X={TEXT}\n")
    script.chmod(0o750)
    before = other.stat()
    assert scrub(str(tmp_path)) == []
    assert log.read_bytes() == b"first\r\n\xff ****** \0\nlast"
    assert (script.read_text(), script.stat().st_mode & 0o777) == ("X=***\n", 0o750)
    assert (other.read_text(), other.stat().st_mtime_ns, other.stat().st_ino) == (
        "nothing", before.st_mtime_ns, before.st_ino,
    )  # fmt: skip
    assert (tmp_path / NOTE).read_text() == (
        "script.sh: *** stands for each secret that it held\n0/stdout.log: *** stands for each secret that it held\n"
    )
    assert (tmp_path / NOTE).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0", NOTE, "script.sh", "stderr.log", "stdout.log"]


@pytest.mark.parametrize("name", ["arguments.pkl", "function-0.pkl", "result.cj"])
def test_a_pickle_that_holds_a_secret_is_removed_and_another_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps([TEXT]))
    (tmp_path / "other.pkl").write_bytes(pickle.dumps(["text"]))
    assert scrub(str(tmp_path)) == []
    assert sorted(os.listdir(tmp_path)) == ["other.pkl", NOTE]
    assert (tmp_path / NOTE).read_text() == f"{name}: removed, it held a secret\n"


def test_where_there_is_no_secret_there_is_no_note(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "log").write_text("text")
    assert scrub(str(tmp_path)) == []
    assert sorted(os.listdir(tmp_path)) == ["empty", "log"]


def test_links_are_not_followed_and_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (outside / "folder").mkdir(parents=True)
    inside.mkdir()
    (outside / "log").write_text(TEXT)
    (outside / "folder" / "log").write_text(TEXT)
    (inside / "link").symlink_to(outside / "log")
    (inside / "folder").symlink_to(outside / "folder")
    os.mkfifo(inside / "pipe")
    assert scrub(str(inside)) == []
    assert (outside / "log").read_text() == (outside / "folder" / "log").read_text() == TEXT


def test_a_hard_link_elsewhere_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(TEXT)
    (tmp_path / "kept").mkdir()
    os.link(tmp_path / "users", tmp_path / "kept" / "copy")
    scrub(str(tmp_path / "kept"))
    assert ((tmp_path / "users").read_text(), (tmp_path / "kept" / "copy").read_text()) == (TEXT, "***")


def test_what_cannot_be_done_is_told(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(TEXT)
    (tmp_path / f"log.{os.getpid()}.tmp").mkdir()  # where the new file would be written
    assert scrub(str(tmp_path)) == [f"{tmp_path}/log: secrets may be in it: Is a directory"]


def test_a_large_log_is_read_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / "stdout.log"
    with log.open("w") as file:
        for number in range(200_000):
            file.write(f"line {number} of a long log\n")
        file.write(TEXT + "\n")
    size = log.stat().st_size
    assert scrub(str(tmp_path)) == []
    assert log.stat().st_size == size - len(TEXT) + 3
