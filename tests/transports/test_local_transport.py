"""This machine as a transport: what it runs ends in time, with all its children, and what it writes is ours alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from pytest_clusterjobs.core.errors import CommandError, CommandNotFound, CommandTimeout, StoreError
from pytest_clusterjobs.transports.local import LocalTransport
from tests import watching
from tests.watching import with_word

wait_for = partial(watching.wait_for, within_s=20)

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


@pytest.fixture
def here() -> LocalTransport:
    return LocalTransport()


# ---------------------------------------------------------------- commands


def test_command_gives_what_it_said_whatever_its_exit_code(here: LocalTransport) -> None:
    result = here.run(["sh", "-c", "echo out; echo err >&2; exit 7"], 10)
    assert (result.returncode, result.stdout, result.stderr) == (7, "out\n", "err\n")
    assert result.argv == ("sh", "-c", "echo out; echo err >&2; exit 7")


def test_signal_that_ended_a_command_is_a_negative_code(here: LocalTransport) -> None:
    assert here.run(["sh", "-c", "kill -9 $$"], 10).returncode == -9


def test_no_shell_reads_the_words(here: LocalTransport) -> None:
    words = ["a b", "$HOME", "`id`", "; rm -rf", "'", '"', "*", "", "ünï", "new\nline"]
    assert here.run(["printf", "%s|", *words], 10).stdout.split("|")[:-1] == words


def test_input_reaches_the_command_and_without_it_there_is_none(here: LocalTransport) -> None:
    assert here.run(["cat"], 10, stdin="ünï\n" * 100_000).stdout == "ünï\n" * 100_000
    assert here.run(["cat"], 10).stdout == ""


def test_command_that_does_not_read_its_input_is_no_error(here: LocalTransport) -> None:
    assert here.run(["true"], 10, stdin="x" * 1_000_000).returncode == 0


def test_huge_outputs_are_read_whole_from_both_ends(here: LocalTransport) -> None:
    script = "import sys; sys.stderr.write('e' * 3000000); sys.stdout.write('o' * 3000000)"
    result = here.run([sys.executable, "-c", script], 30)
    assert (len(result.stdout), len(result.stderr)) == (3_000_000, 3_000_000)


def test_bytes_that_are_no_text_are_replaced(here: LocalTransport) -> None:
    assert here.run(["printf", "a\\377b"], 10).stdout == "a�b"


def test_environment_and_directory_are_what_is_given(here: LocalTransport, tmp_path: Path) -> None:
    result = here.run(["sh", "-c", "pwd; env"], 10, env={"PATH": os.environ["PATH"], "X": "1"}, cwd=str(tmp_path))
    lines = result.stdout.splitlines()
    assert lines[0] == str(tmp_path)
    assert {line.partition("=")[0] for line in lines[1:]} <= {"PATH", "X", "PWD", "SHLVL", "_", "OLDPWD"}


def test_missing_command_is_named(here: LocalTransport) -> None:
    with pytest.raises(CommandNotFound, match="no-such-command not found on PATH") as caught:
        here.run(["no-such-command", "a b"], 10)
    assert caught.value.command == "no-such-command 'a b'"


def test_command_on_a_path_that_is_not_ours_counts(here: LocalTransport, tmp_path: Path) -> None:
    with pytest.raises(CommandNotFound):
        here.run(["true"], 10, env={"PATH": str(tmp_path)})


def test_file_that_cannot_be_executed_is_named(here: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("")
    with pytest.raises(CommandNotFound, match=r"Permission denied.*tool"):
        here.run([str(tmp_path / "tool")], 10)


def test_program_that_is_none_is_named(here: LocalTransport, tmp_path: Path) -> None:
    """A script without its first line raised OSError: Exec format error, which nobody expected."""
    (tmp_path / "tool").write_text("echo no shebang\n")
    (tmp_path / "tool").chmod(0o755)
    with pytest.raises(CommandNotFound, match=r"tool.*Exec format error|Exec format error.*tool"):
        here.run([str(tmp_path / "tool")], 10)


def test_words_that_are_too_long_are_an_error_of_the_command(here: LocalTransport) -> None:
    with pytest.raises(CommandError, match="Argument list too long") as caught:
        here.run(["true", "x" * 1_000_000], 10)
    assert len(caught.value.command) <= 1000


def test_directory_that_is_missing_is_not_taken_for_the_command(here: LocalTransport) -> None:
    with pytest.raises(StoreError, match="the directory /no/such/place does not exist"):
        here.run(["true"], 10, cwd="/no/such/place")


# ---------------------------------------------------------------- time limits


def test_time_limit_ends_the_command_and_keeps_what_it_said(here: LocalTransport, token: str) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"sh did not end within 0\.3 s and was killed") as caught:
        here.run(["sh", "-c", f"echo careful >&2; sleep 100; : {token}"], 0.3)
    assert time.monotonic() - started < 10
    assert caught.value.stderr == "careful\n"
    assert caught.value.transient
    assert with_word(token) == []


def test_time_limit_ends_children_of_children_that_ignore_signals(here: LocalTransport, token: str) -> None:
    inner = f"trap '' TERM INT HUP; sleep 100 & wait; wait; : {token}"
    with pytest.raises(CommandTimeout):
        here.run(["sh", "-c", f"sh -c \"{inner}\" & sh -c '(sleep 100; : {token}) & wait' & wait; : {token}"], 0.5)
    wait_for(lambda: with_word(token) == [])


def test_time_limit_holds_where_a_child_has_left_the_group_and_kept_the_pipe(here: LocalTransport, token: str) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimeout):
        here.run(["sh", "-c", f"setsid sh -c 'while :; do sleep 0.1; done; : {token}' & sleep 100"], 0.3)
    assert time.monotonic() - started < 15


def test_command_that_ends_leaves_its_caller_s_signals_alone(here: LocalTransport) -> None:
    """Ctrl-C in the terminal must not reach a scheduler command: it may be making a job."""
    assert here.run(["sh", "-c", "ps -o sid= -p $$ | tr -d ' '; echo $$"], 10).stdout.split() != [str(os.getsid(0))]
    shown = here.run([sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"], 10)
    assert shown.stdout == "True\n"


def test_interrupt_while_a_command_runs_leaves_nothing_behind(token: str, tmp_path: Path) -> None:
    program = f"""
from pytest_clusterjobs.transports.local import LocalTransport
LocalTransport().run(["sh", "-c", "touch {tmp_path}/up; sleep 100; : {token}-child"], 60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: (tmp_path / "up").exists() and stat.read_text().rpartition(")")[2].split()[0] == "S")  # it waits
    process.send_signal(2)
    _, stderr = process.communicate(timeout=20)
    assert b"KeyboardInterrupt" in stderr
    assert with_word(f"{token}-child") == []


def test_many_threads_run_commands_at_once(here: LocalTransport) -> None:
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda number=number: said.append(here.run(["echo", str(number)], 20).stdout))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, said)) == list(range(20))


# ---------------------------------------------------------------- files


def test_what_is_written_is_read_and_is_ours_alone(here: LocalTransport, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        here.make_directory(str(tmp_path / "a" / "b"))
        here.write(str(tmp_path / "a" / "b" / "f"), b"\0one\ntwo")
        here.write(str(tmp_path / "a" / "b" / "x"), b"", executable=True)
    finally:
        os.umask(previous)
    path = tmp_path / "a" / "b"
    assert [(path / name).stat().st_mode & 0o777 for name in ("", "f", "x")] == [0o700, 0o600, 0o700]
    assert here.read(str(path / "f")) == b"\0one\ntwo"
    assert here.read(str(path / "f"), last_bytes=3) == b"two"
    assert here.read(str(path / "f"), last_bytes=1000) == b"\0one\ntwo"
    assert here.read_first_line(str(path / "f")) == b"\0one"
    assert sorted(here.list_names(str(path))) == ["f", "x"]


def test_what_is_not_there_is_none(here: LocalTransport, tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    assert here.read(path) is None
    assert here.read_first_line(path) is None
    assert here.list_names(path) == []
    here.remove(path)


def test_what_cannot_be_read_or_written_is_an_error_with_the_path(here: LocalTransport, tmp_path: Path) -> None:
    for call in (here.read, here.read_first_line):
        with pytest.raises(StoreError, match=f"cannot read {tmp_path}"):
            call(str(tmp_path))
    for path in (tmp_path, tmp_path / "no" / "such"):
        with pytest.raises(StoreError, match=rf"cannot write {path} \(3 bytes\)"):
            here.write(str(path), b"abc")


def test_full_disk_is_an_error_with_the_path_and_the_size(here: LocalTransport) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with pytest.raises(StoreError, match=r"cannot write /dev/full \(3 bytes\): No space left on device"):
        here.write("/dev/full", b"abc")


@is_root
def test_directory_of_somebody_else_is_refused(here: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(StoreError, match=r"owner uid 12345.*remove it or set another"):
        here.make_directory(str(tmp_path / "theirs"))


def test_link_to_a_directory_is_refused(here: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    with pytest.raises(StoreError, match="not a directory of ours"):
        here.make_directory(str(tmp_path / "link"))


def test_removing_a_link_leaves_what_it_points_to(here: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "kept").touch()
    os.symlink(tmp_path / "real", tmp_path / "link")
    here.remove(str(tmp_path / "link"))
    assert (tmp_path / "real" / "kept").exists()
    assert not (tmp_path / "link").exists()
    here.remove(str(tmp_path / "real"))
    assert not (tmp_path / "real").exists()
