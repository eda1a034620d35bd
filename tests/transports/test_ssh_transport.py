"""Commands over SSH, on a real sshd: words arrive as they are, nothing else does, and what runs ends in time."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.core.errors import CommandError, CommandNotFound, CommandTimeout, StoreError
from pytest_clusterjobs.transports.ssh import SSHTransport
from tests.transports.far import far_machine, reached, wait_for
from tests.watching import with_word

pytestmark = pytest.mark.cluster_lane("sshd")

HARD_WORDS = [
    *[
        "",
        " ",
        "a b",
        "'",
        '"',
        "''",
        "'\"'\"'",
        "\\",
        "\\\\n",
        "$HOME",
        "$(id)",
        "`id`",
        "${x}",
        "!",
        "!!",
        "a!b",
        "~",
    ],
    *["*", "?", "[a]", "{a,b}", "#", ";", "&&", "|", ">x", "<x", "(", ")", "%s", "%", "^", "=", "A=b", "-", "--", "-n"],
    *[
        "\n",
        "a\nb",
        "\n\n",
        "trailing\n",
        "\r",
        "\r\n",
        "\t",
        "\x01",
        "\x7f",
        "\x1b[31m",
        "é",
        "Á",
        "ÿ",
        "日本",
        "🙂",
        "\u2028",
    ],
    *["EOF", "\\'", "'\\''", "x" * 5000, "\udcff\udc81\udc88"],
]


def echoed(way: SSHTransport, words: list[str]) -> list[str]:
    """Give words as a far program gets them: in hexadecimal, so that no byte is lost on the way back."""
    code = "import os, sys; print(*[os.fsencode(word).hex() or '-' for word in sys.argv[1:]])"
    done = way.run([sys.executable, "-c", code, *words], 30)
    assert done.returncode == 0, done.stderr
    raw = [b"" if word == "-" else bytes.fromhex(word) for word in done.stdout.split()]
    return [word.decode("utf-8", "surrogateescape") for word in raw]


# ---------------------------------------------------------------- words


def test_words_arrive_as_they_are(far: SSHTransport) -> None:
    assert echoed(far, HARD_WORDS) == HARD_WORDS


def test_any_words_arrive_as_they_are(far: SSHTransport) -> None:
    chance = random.Random(20)
    alphabet = "ab '\"\\$`!~*?[]{}()<>|&;#%^=-\n\r\t\x01\x08\x81\x82\x83\x88ÁéŸ日🙂\udc81\udc82\udcff"
    words = ["".join(chance.choices(alphabet, k=chance.randrange(12))) for _ in range(2000)]
    assert echoed(far, words) == words


@pytest.mark.parametrize("shell", ["tcsh", "dash", "bash --posix"])
def test_login_shells_of_all_kinds_hand_words_on_as_they_are(shell: str, tmp_path: Path) -> None:
    if not any(Path(folder, shell.split()[0]).exists() for folder in os.environ["PATH"].split(os.pathsep)):
        pytest.skip(f"{shell} is not installed")
    lines = [f"SetEnv HOME={tmp_path}", f'ForceCommand exec {shell} -c "$SSH_ORIGINAL_COMMAND"']
    with far_machine(*lines) as cluster, reached(cluster) as way:
        assert echoed(way, HARD_WORDS) == HARD_WORDS
        assert way.run(["cat"], 30, stdin="a!'b\n").stdout == "a!'b\n"


def test_word_with_a_nul_byte_is_refused(far: SSHTransport) -> None:
    with pytest.raises(CommandError, match="NUL"):
        far.run(["echo", "a\0b"], 10)
    with pytest.raises(CommandError, match="NUL"):
        far.run(["true"], 10, env={"A": "\0"})


def test_program_s_name_is_never_one_of_the_shell_s_own(far: SSHTransport) -> None:
    for name in ("exit", "eval", "if", "A=b", "-c", "--", "."):
        with pytest.raises(CommandNotFound, match="not found on PATH of clusterjobs"):
            far.run([name, "1"], 10)
    assert far.run(["test", "a", "=", "b"], 10).returncode == 1


# ---------------------------------------------------------------- environment, directory


def test_nothing_of_our_environment_goes_there(far: SSHTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CJ_OURS", "secret")
    monkeypatch.setenv("LC_CJ", "secret")
    there = far.run(["env"], 10).stdout
    assert "HOME=" in there
    assert "secret" not in there
    with_more = far.run(["env"], 10, env={"CJ_GIVEN": "a 'b'\n$c"}).stdout
    assert "CJ_GIVEN=a 'b'\n$c\n" in with_more
    same = [line for line in there.splitlines() if line.startswith(("PATH=", "HOME=", "USER="))]
    assert set(same) <= set(with_more.splitlines())


def test_values_of_variables_are_on_no_command_line(far: SSHTransport, token: str) -> None:
    done = far.run(["sh", "-c", 'cat /proc/[0-9]*/cmdline; test -n "$CJ_KEY"'], 30, env={"CJ_KEY": token})
    assert done.returncode == 0
    assert "test -n" in done.stdout  # its own, at least
    assert token not in done.stdout


def test_path_given_is_where_programs_are_sought(far: SSHTransport, tmp_path: Path) -> None:
    (tmp_path / "cj-own").write_text("#!/bin/sh\necho mine\n")
    with pytest.raises(CommandNotFound):
        far.run(["cj-own"], 10, env={"PATH": str(tmp_path)})
    (tmp_path / "cj-own").chmod(0o700)
    assert far.run(["cj-own"], 10, env={"PATH": f"/bin:{tmp_path}"}).stdout == "mine\n"
    assert far.run(["./cj-own"], 10, cwd=str(tmp_path)).stdout == "mine\n"
    with pytest.raises(CommandNotFound):
        far.run(["cj-own"], 10)


@pytest.mark.parametrize("name", ["a-b", "1a", "", "BASH_FUNC_x%%", "a=b", "a\nb"])
def test_impossible_variable_is_refused(far: SSHTransport, name: str) -> None:
    with pytest.raises(CommandError, match="cannot be the name of a variable"):
        far.run(["true"], 10, env={name: "x"})


def test_directory_is_where_it_runs_or_an_error(far: SSHTransport, tmp_path: Path) -> None:
    odd = tmp_path / "a 'b'\n$c"
    odd.mkdir()
    assert far.run(["pwd"], 10, cwd=str(odd)).stdout == f"{odd}\n"
    with pytest.raises(StoreError, match="the directory /no/such/place does not exist on clusterjobs"):
        far.run(["true"], 10, cwd="/no/such/place")


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 130, 254, 255])
def test_exit_code_is_the_command_s_own(far: SSHTransport, code: int) -> None:
    done = far.run(["sh", "-c", f"echo out; echo err >&2; exit {code}"], 10)
    assert (done.returncode, done.stdout, done.stderr) == (code, "out\n", "err\n")


def test_end_by_a_signal_is_128_and_its_number(far: SSHTransport) -> None:
    assert far.run(["sh", "-c", "kill -9 $$"], 10).returncode == 137


def test_signals_have_their_usual_meaning_there(far: SSHTransport) -> None:
    ignored = int(far.run(["grep", "SigIgn", "/proc/self/status"], 10).stdout.split()[1], 16)
    assert ignored & (1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1 | 1 << signal.SIGTERM - 1) == 0


def test_what_a_login_prints_is_not_the_command_s(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("echo hello; echo oops >&2; printf 'no newline'; printf x >&2\n")
    with (
        far_machine(f"SetEnv HOME={tmp_path} SHELL=/bin/bash", "Banner /etc/passwd") as cluster,
        reached(cluster) as way,
    ):
        done = way.run(["sh", "-c", "printf out; printf err >&2; exit 3"], 10)
        assert (done.returncode, done.stdout, done.stderr) == (3, "out", "err")
        way.write(f"{tmp_path}/f", b"\0\n")
        assert way.read(f"{tmp_path}/f") == b"\0\n"
        with way.open(["cat"]) as opened:
            assert opened.communicate(b"through", 20) == (b"through", b"")


def test_much_goes_both_ways(far: SSHTransport) -> None:
    text = "".join(chr(32 + number % 90) for number in range(3_000_000))
    done = far.run(["sh", "-c", "tee /dev/stderr"], 60, stdin=text)
    assert (done.stdout == text, done.stderr == text) == (True, True)
    assert far.run(["sh", "-c", "wc -c"], 10).stdout.strip() == "0"
    assert far.run(["true"], 10, stdin=text).returncode == 0  # which reads none of it


def test_bytes_that_are_no_text_are_replaced(far: SSHTransport) -> None:
    assert far.run(["printf", "a\\377b"], 10).stdout == "a�b"


def test_child_that_keeps_the_output_open_holds_nobody_up_and_goes_on(far: SSHTransport, token: str) -> None:
    started = time.monotonic()
    assert far.run(["sh", "-c", f"sh -c 'sleep 100; : {token}' & echo started"], 60).stdout == "started\n"
    assert time.monotonic() - started < 30
    assert with_word(token)
    far.run(["true"], 10)  # by now the far shells of the first have noticed its end
    assert with_word(token)


# ---------------------------------------------------------------- time limits and ends


@pytest.mark.parametrize("stdin", [None, "text"])
def test_time_limit_ends_the_command_and_its_children_there(far: SSHTransport, token: str, stdin: str | None) -> None:
    inner = f"trap '' TERM INT HUP; sleep 100 & wait; wait; : {token}"
    started = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"sh .* on clusterjobs did not end within 1 s and was killed") as caught:
        far.run(["sh", "-c", f'echo careful >&2; sh -c "{inner}" & wait; : {token}'], 1, stdin=stdin)
    assert time.monotonic() - started < 20
    assert caught.value.transient
    wait_for(lambda: with_word(token) == [])


def test_what_was_said_before_the_time_limit_is_in_the_error(far: SSHTransport) -> None:
    with pytest.raises(CommandTimeout) as caught:
        far.run(["sh", "-c", "echo careful >&2; exec sleep 100"], 1)
    assert caught.value.stderr == "careful\n"


def test_many_threads_run_commands_at_once(far: SSHTransport) -> None:
    said: list[str] = []

    def some(first: int) -> None:
        for number in range(first, 104, 8):
            said.append(far.run(["echo", str(number)], 60).stdout.strip())

    threads = [threading.Thread(target=some, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(map(int, said)) == list(range(104))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_our_end_is_the_end_of_what_runs_there_and_of_the_connection(
    far_cluster: RunningCluster, token: str, number: signal.Signals
) -> None:
    code = f"""
from pytest_clusterjobs.transports.ssh import SSHTransport
way = SSHTransport("clusterjobs")
way.run(["sh", "-c", "sleep 100; : {token}-child"], 60)
"""
    environment = {**os.environ, **far_cluster.environment, "TMPDIR": f"/tmp/{token}"}
    os.mkdir(f"/tmp/{token}")
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, start_new_session=True
        )
        wait_for(lambda: with_word(f"{token}-child"))
        process.send_signal(number)
        process.communicate(timeout=20)
        wait_for(lambda: with_word(token) == [])
        assert [name for _, _, names in os.walk(f"/tmp/{token}") for name in names] == []
    finally:
        subprocess.run(["rm", "-rf", f"/tmp/{token}"], check=True)


def test_close_leaves_no_process_and_no_file_and_may_be_done_twice(
    far_cluster: RunningCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", short := f"/tmp/cj-{secrets.token_hex(4)}")
    os.mkdir(short)
    with reached(far_cluster) as way:
        assert repr(way) == "SSHTransport('clusterjobs')"
        way.connect()
        (folder,) = os.listdir(short)
        assert os.stat(f"{short}/{folder}").st_mode & 0o777 == 0o700
        assert with_word(folder)
        way.close()
        way.close()
        assert (os.listdir(short), with_word(folder)) == ([], [])
        assert way.run(["echo", "again"], 30).stdout == "again\n"
    assert os.listdir(short) == []
    os.rmdir(short)


def test_long_temporary_directory_does_not_matter(
    far_cluster: RunningCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ("long" * 30)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))
    with reached(far_cluster) as way:
        assert way.run(["echo", "in"], 30).stdout == "in\n"


# ---------------------------------------------------------------- channels


def test_channel_carries_bytes_at_once_and_ends_with_its_standard_input(far: SSHTransport, token: str) -> None:
    script = f'while read -r line; do echo "<$line>"; done; echo over >&2; exit 7; : {token}'
    with far.open(["sh", "-c", script]) as channel:
        assert channel.stdin is not None
        assert channel.stdout is not None
        for word in (b"one", b"two"):
            channel.stdin.write(word + b"\n")
            assert channel.stdout.read(6) == b"<" + word + b">\n"
        assert channel.communicate(timeout=20) == (b"", b"over\n")
    assert channel.returncode == 7


def test_channel_s_command_that_ends_by_itself_ends_the_process_here(far: SSHTransport) -> None:
    with far.open(["sh", "-c", "echo done; exit 3"]) as channel:
        assert channel.wait(20) == 3
        assert channel.stdout is not None
        assert channel.stdout.read() == b"done\n"


def test_channel_s_command_that_goes_on_is_killed_with_its_children(far: SSHTransport, token: str) -> None:
    with far.open(["sh", "-c", f"trap '' TERM HUP; sh -c 'sleep 100; : {token}' & wait; : {token}"]) as channel:
        wait_for(lambda: len(with_word(token)) >= 2)
        assert channel.stdin is not None
        channel.stdin.close()
        wait_for(lambda: with_word(token) == [])
        channel.wait(20)


def test_channel_to_a_command_that_is_not_there_says_so(far: SSHTransport) -> None:
    with far.open(["no-such-command"]) as channel:
        assert channel.communicate(timeout=20) == (b"", b"no-such-command not found on PATH\n")
    assert channel.returncode == 127
