"""The runner as a process of its own, with interpreters of several versions that have nothing of ours installed."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.engine.payload import loads, pack
from pytest_clusterjobs.node import runner
from tests import watching

if TYPE_CHECKING:
    from tests.node_bench import BARE_PYTHON, Node
else:
    from node_bench import BARE_PYTHON, Node

wait_for = partial(watching.wait_for, within_s=20)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def python(version: str) -> str:
    """Give an interpreter of a version, or skip."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return BARE_PYTHON
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    if not found:
        pytest.skip(f"there is no Python {version} here")
    return str(found[-1])


# ---------------------------------------------------------------- Pythons


SUPPORTED = ["3.10", "3.11", "3.12", "3.13"]

PACK = """
import sys; sys.path.insert(0, sys.argv[1])
import cloudpickle, pickle
def make(base):
    def job(x, *, y=1):
        if x < 0:
            raise ValueError("negative")
        return {"sum": base + x + y, "rest": [x] * 2}
    return job
sys.stdout.buffer.write(pickle.dumps((cloudpickle.dumps(make(10)), pickle.dumps((eval(sys.argv[2]), {"y": 5})))))
"""


def packed_by(node: Node, interpreter: str, version: str, args: str = "(1,)") -> None:
    """Write the order of a call as the same Python at home would."""
    done = subprocess.run([interpreter, "-c", PACK, str(node.lib), args], capture_output=True, check=True)
    function, arguments = pickle.loads(done.stdout)
    node.order(
        kind="call",
        python=[int(part) for part in version.split(".")],
        function=node.put("function", function),
        arguments=node.put("arguments", arguments),
        home=[],
    )


@pytest.mark.parametrize("version", SUPPORTED)
def test_call_runs_with_a_python_that_has_nothing_of_ours(node: Node, version: str) -> None:
    interpreter = python(version)
    packed_by(node, interpreter, version)
    finished = node.run(interpreter)
    assert finished.value() == {"sum": 16, "rest": [1, 1]}
    assert (finished.code, finished.stdout, finished.stderr) == (0, "", "")
    start = json.loads((node.job / "start.json").read_text())
    assert start["python"].startswith(version + ".")


@pytest.mark.parametrize("version", SUPPORTED)
def test_exception_comes_back_from_every_python(node: Node, version: str) -> None:
    interpreter = python(version)
    packed_by(node, interpreter, version, "(-1,)")
    finished = node.run(interpreter)
    with pytest.raises(ValueError, match="negative") as caught:
        finished.value()
    assert caught.traceback[-1].name == "job"
    assert finished.code == 1
    assert 'raise ValueError("negative")' in finished.header["traceback"] or "in job" in finished.header["traceback"]


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9", *SUPPORTED[:-1]])
def test_other_python_is_refused_with_both_versions_and_no_crash(node: Node, version: str) -> None:
    """Elsewhere it was a segfault, or a cryptic error of unpickling."""
    interpreter = python(version)
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        pytest.skip("the same Python")
    node.put_call(pack(os.getpid, [((), {})], "getpid"))
    finished = node.run(interpreter)
    assert (finished.code, finished.header["outcome"], finished.header["why"]) == (97, "refused", "environment")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert re.search(rf"packed by Python {here} and the node runs Python {version}\.\d+", finished.header["text"])
    assert f"name one of the nodes' {here} in the key python of the profile" in finished.header["text"]
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_command_needs_no_particular_python(node: Node, version: str) -> None:
    node.order(kind="command", argv=["/bin/sh", "-c", "echo said; exit 3"])
    finished = node.run(python(version))
    assert (finished.code, finished.stdout, finished.header["exit_code"]) == (3, "said\n", 3)


def test_plain_function_loads_neither_cloudpickle_nor_json_nor_us(node: Node) -> None:
    """Elsewhere the runner imported the whole package: 0.3 s before the user's function started."""

    def look() -> list[str]:
        names = {"cloudpickle", "json", "re", "inspect", "typing", "subprocess", "pytest", "pytest_clusterjobs", "ssl"}
        return sorted(names & set(sys.modules))

    assert node.call(look).value() == []


def test_function_s_own_imports_cannot_meet_the_runner_s(node: Node) -> None:
    def look() -> tuple[list[str], list[str]]:
        return [name for name in ("runner", "packing", "start") if name in sys.modules], sys.path

    names, path = node.call(look).value()
    assert names == []
    assert str(node.runner.parent) not in path


def test_shipped_cloudpickle_is_used_even_where_another_is_installed(node: Node) -> None:
    other = node.root / "other"
    (other / "cloudpickle").mkdir(parents=True)
    (other / "cloudpickle" / "__init__.py").write_text("raise RuntimeError('the wrong one')")

    def look() -> str:
        import cloudpickle

        return str(cloudpickle.__file__)

    node.put_call(pack(look, [((), {})], "look"))
    assert node.run(env={"PYTHONPATH": str(other)}).value().startswith(str(node.lib))


# ---------------------------------------------------------------- the process


def test_job_finds_its_name_its_place_and_its_user(node: Node) -> None:
    def look() -> dict[str, Any]:
        names = ("HOME", "USER", "LOGNAME", "PWD", "CLUSTERJOBS_JOB_ID")
        return {name: os.environ.get(name) for name in names} | {"argv": sys.argv, "cwd": os.getcwd()}

    node.put_call(pack(look, [((), {})], "look"), label="look")
    seen = node.run().value()
    assert all(seen.values())
    assert (seen["argv"], seen["CLUSTERJOBS_JOB_ID"]) == (["look"], "1")
    assert seen["PWD"] == seen["cwd"] == str(node.job)


def test_crash_leaves_no_core_file(node: Node) -> None:
    def look() -> tuple[int, int]:
        return resource.getrlimit(resource.RLIMIT_CORE)

    soft, hard = node.call(look).value()
    assert soft == 0
    assert hard == resource.getrlimit(resource.RLIMIT_CORE)[1]


def test_import_path_of_home_comes_after_the_node_s_own(node: Node) -> None:
    folder = node.root / "theirs"
    folder.mkdir()
    (folder / "only_theirs.py").write_text("X = 5")
    (folder / "string.py").write_text("raise RuntimeError('shadowed')")

    def use() -> int:
        import string

        import only_theirs  # type: ignore[import-not-found]

        return int(only_theirs.X) if string.digits else 0

    node.put_call(pack(use, [((), {})], "use"), sys_path=[str(folder)])
    assert node.run().value() == 5


def test_working_directory_that_the_node_does_not_see_is_said(node: Node) -> None:
    node.put_call(pack(os.getcwd, [((), {})], "getcwd"), cwd="/no/such/place")
    finished = node.run()
    assert (finished.code, finished.header["outcome"], finished.header["why"]) == (97, "refused", "launch")
    assert "/no/such/place" in finished.header["text"]


def test_start_tells_what_the_node_gives(node: Node) -> None:
    node.command("true", env={"SLURM_JOB_ID": "7", "SECRET_TOKEN": "x"})
    start = json.loads((node.job / "start.json").read_text())
    assert start["node"] == os.uname().nodename
    assert start["cpus"] == sorted(os.sched_getaffinity(0))
    assert start["environment"] == {"SLURM_JOB_ID": "7", "CLUSTERJOBS_JOB_ID": "1"}
    assert set(start) >= {"pid", "started_at", "python", "executable", "cgroup", "rlimits", "gpus"}


def test_start_holds_no_secret_that_a_scheduler_needs(node: Node) -> None:
    """A login token of Slurm's REST interface, exported to jobs by --export=ALL, was in a file that may be kept."""
    secrets = {
        "SLURM_JWT": "hush",
        "PBS_O_API_KEY": "hush",
        "KUBERNETES_TOKEN": "hush",
        "CLUSTERJOBS_X_PASSWORD": "hush",
    }
    node.command("true", env={**secrets, "SLURM_JOB_ID": "7"})
    text = (node.job / "start.json").read_text()
    assert "hush" not in text
    assert set(secrets) <= set(json.loads(text)["variables"])  # their names tell nobody anything


def test_start_has_the_lines_of_files_that_list_hosts(node: Node, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("n1\nn1\nn2\n")
    node.command("true", env={"PBS_NODEFILE": str(hosts), "PE_HOSTFILE": str(tmp_path / "absent")})
    assert json.loads((node.job / "start.json").read_text())["files"] == {"PBS_NODEFILE": ["n1", "n1", "n2"]}


def test_start_tells_memory_and_the_limits_that_it_runs_under(node: Node) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))

    node.order(kind="command", argv=["true"])
    argv = [BARE_PYTHON, "-u", str(node.runner), str(node.job)]
    subprocess.run(argv, preexec_fn=limit, check=True, timeout=30)
    start = json.loads((node.job / "start.json").read_text())
    assert start["rlimits"]["RLIMIT_AS"] == [2**33, 2**33]
    assert start["memory_bytes"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert start["threads_per_core"] >= 1


def test_tightest_of_all_groups_above_counts() -> None:
    found: dict[str, str] = {}
    for text in ("max", "", "500", "-1 100000", "400", "9223372036854771712"):
        runner._tighten(found, "memory.max", text)
    for text in ("max 100000", "200000 100000", "100000 200000", "150000 100000"):
        runner._tighten(found, "cpu.max", text)
    assert found == {"memory.max": "400", "cpu.max": "100000 200000"}


def test_memory_limit_of_the_group_above_its_own_is_found(tmp_path: Path) -> None:
    """Slurm limits the job's group, and the script runs in a group of its step below it."""
    for folder, limit in (("", "9223372036854771712"), ("job_7/", "1073741824"), ("job_7/step_batch/", "max")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(limit + "\n")
    found: dict[str, str] = {}
    for folder in ("job_7/step_batch/", "job_7/", ""):
        runner._read_unified(found, f"{tmp_path}/{folder}")
    assert found == {"memory.max": "1073741824"}


# ---------------------------------------------------------------- orders


@pytest.mark.parametrize("part", ["function", "arguments"])
@pytest.mark.parametrize("damage", [lambda data: data + b"x", lambda data: b"", lambda data: b"\0" + data[1:]])
def test_damaged_payload_is_refused_and_never_unpickled(node: Node, part: str, damage: Any) -> None:
    node.put_call(pack(os.getpid, [((), {})], "getpid"))
    path = node.job / part
    path.write_bytes(damage(path.read_bytes()))
    finished = node.run()
    assert (finished.code, finished.header["outcome"], finished.header["why"]) == (97, "refused", "payload")
    assert "its checksum differs" in finished.header["details"]


def test_missing_payload_is_refused(node: Node) -> None:
    node.put_call(pack(os.getpid, [((), {})], "getpid"))
    (node.job / "function").unlink()
    finished = node.run()
    assert finished.header["outcome"] == "refused"
    assert "FileNotFoundError" in finished.stderr


def test_module_that_is_missing_on_the_node_is_refused_with_its_name(node: Node) -> None:
    function = node.put("function", b"cnot_there_at_all\nf\n.")
    node.order(kind="call", function=function, arguments=node.put("arguments", pickle.dumps(((), {}))), home=[])
    finished = node.run()
    assert finished.header["why"] == "payload"
    assert "not_there_at_all" in finished.header["details"]


@pytest.mark.parametrize("text", ["", "{", '{"kind": "comm'])
def test_damaged_order_ends_without_an_envelope_and_with_a_message(node: Node, text: str) -> None:
    (node.job / "order.json").write_text(text)
    finished = node.run()
    assert finished.code not in (0, 97)
    assert finished.header == {}
    assert finished.stderr != ""


# ---------------------------------------------------------------- ends


def test_exit_code_and_signal_of_a_command_are_its_own(node: Node) -> None:
    for script, code, number in [("exit 0", 0, None), ("exit 42", 42, None), ("kill -9 $$", 137, 9)]:
        finished = node.command("/bin/sh", "-c", script)
        assert (finished.code, finished.header["exit_code"], finished.header["signal"]) == (code, code, number)


def test_command_that_cannot_be_run_is_refused_with_the_reason(node: Node) -> None:
    finished = node.command("/no/such/program")
    assert (finished.code, finished.header["why"]) == (97, "launch")
    assert finished.header["text"] == "cannot run '/no/such/program': No such file or directory"
    assert node.command(str(node.root)).header["text"].endswith("Permission denied")


def test_sigterm_reaches_the_command_whose_end_decides(node: Node) -> None:
    script = "trap 'echo cleaned; exit 8' TERM; echo up >up; while :; do sleep 0.01; done"
    node.order(kind="command", argv=["/bin/sh", "-c", script])
    process = node.start()
    wait_for(lambda: (node.job / "up").exists())
    process.terminate()
    finished = node.finish(process)
    assert (finished.code, finished.stdout, finished.header["exit_code"]) == (8, "cleaned\n", 8)


def test_sigterm_for_a_command_that_does_not_listen_is_its_end_by_that_signal(node: Node) -> None:
    node.order(kind="command", argv=["/bin/sh", "-c", "echo up >up; exec sleep 100"])
    process = node.start()
    wait_for(lambda: (node.job / "up").exists())
    process.terminate()
    finished = node.finish(process)
    assert (finished.header["exit_code"], finished.header["signal"]) == (143, 15)


def test_sigterm_ends_a_function_without_an_envelope(node: Node) -> None:
    def sleep() -> None:
        Path("up").touch()
        time.sleep(100)

    node.put_call(pack(sleep, [((), {})], "sleep"))
    process = node.start()
    wait_for(lambda: (node.job / "up").exists())
    process.terminate()
    finished = node.finish(process)
    assert (finished.code, finished.header) == (-signal.SIGTERM, {})


@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), 9), lambda: os.abort()])
def test_process_that_ends_at_once_leaves_no_envelope(node: Node, end: Callable[[], None]) -> None:
    finished = node.call(end)
    assert finished.code != 0
    assert finished.header == {}
    assert [path.name for path in node.job.iterdir() if "result" in path.name] == []


@pytest.mark.parametrize(("code", "process_code"), [(3, 3), (0, 0), (None, 0), ("words", 1)])
def test_sys_exit_is_an_exception_with_its_code(node: Node, code: Any, process_code: int) -> None:
    finished = node.call(sys.exit, code)
    assert (finished.code, finished.header["exit_code"]) == (process_code, process_code)
    assert (finished.header["outcome"], finished.header["chain"][0]["type"]) == ("exception", "SystemExit")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: sys.stdout.close(),
        lambda: setattr(sys, "stdout", None),
        lambda: os.close(1),
        lambda: setattr(sys, "stderr", None),
        lambda: os.environ.clear(),
        lambda: os.chdir("/"),
        lambda: sys.path.clear(),
    ],
    ids=["close", "none", "descriptor", "stderr", "environ", "chdir", "path"],
)
def test_value_survives_what_a_function_does_to_its_process(node: Node, spoil: Callable[[], object]) -> None:
    """After ``sys.stdout.close()`` the value was lost: the flush at the end raised."""

    def job() -> int:
        print("said", end="")
        spoil()
        return 42

    assert node.call(job).value() == 42


@pytest.mark.parametrize("spoil", [lambda: setattr(sys, "stderr", None), lambda: sys.stderr.close()])
def test_exception_survives_the_loss_of_standard_error(node: Node, spoil: Callable[[], object]) -> None:
    def job() -> None:
        spoil()
        raise ValueError("kept")

    with pytest.raises(ValueError, match="kept"):
        node.call(job).value()


def test_large_and_odd_outputs_are_passed_through(node: Node) -> None:
    def talk() -> None:
        os.write(1, b"\xff" * 10)
        print("x" * 1_000_000)
        sys.stderr.write("ü" * 10)

    node.put_call(pack(talk, [((), {})], "talk"))
    process = subprocess.run(
        [BARE_PYTHON, "-u", str(node.runner), str(node.job)], capture_output=True, check=False, timeout=30
    )
    assert process.returncode == 0
    assert process.stdout == b"\xff" * 10 + b"x" * 1_000_000 + b"\n"
    assert process.stderr.decode() == "ü" * 10


def test_value_that_cannot_be_pickled_has_its_text(node: Node) -> None:
    import threading

    finished = node.call(lambda: threading.Lock())
    assert (finished.code, finished.header["outcome"]) == (1, "unpicklable")
    assert "a lock that cannot be pickled" in finished.header["text"]
    assert finished.header["repr"].startswith("<unlocked _thread.lock")


def test_warnings_come_home_and_print_nothing(node: Node) -> None:
    def warn() -> int:
        for number in range(3):
            warnings.warn(f"careful {number}", DeprecationWarning, stacklevel=1)
        return 1

    finished = node.call(warn)
    caught = loads(finished.segments["warnings"])
    assert [(str(message), category) for message, category, _, _ in caught] == [
        (f"careful {number}", DeprecationWarning) for number in range(3)
    ]
    assert {file for _, _, file, _ in caught} == {__file__}
    assert finished.stderr == ""


def test_warnings_are_bounded(node: Node) -> None:
    def warn() -> None:
        for number in range(1000):
            warnings.warn(f"{number}", stacklevel=1)

    assert len(loads(node.call(warn).segments["warnings"])) == 200


def test_metrics_are_of_the_job_and_its_children(node: Node) -> None:
    def work() -> None:
        code = "a = bytearray(120 << 20); a[::4096] = b'x' * len(a[::4096])"
        subprocess.run([sys.executable, "-c", code], check=True)

    metrics = node.call(work).header["metrics"]
    assert metrics["max_rss_bytes"] > 120 << 20
    assert metrics["cpu_time_s"] > 0
    assert metrics["ended_at"] - metrics["started_at"] == pytest.approx(metrics["run_time_s"], abs=0.2)


def test_metrics_are_of_children_that_still_live_too(node: Node) -> None:
    code = (
        "a = bytearray(90 << 20); a[::4096] = b'x' * len(a[::4096]); sum(range(5_000_000)); print(flush=True); input()"
    )

    def work() -> int:
        held = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert held.stdout is not None
        held.stdout.readline()
        globals()["held"] = held  # until the process of the job ends, and its end of the pipe with it
        return held.pid

    finished = node.call(work)
    pid = finished.value()
    assert finished.header["metrics"]["max_rss_bytes"] > 90 << 20
    assert finished.header["metrics"]["cpu_time_s"] > 0.05
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


def test_metrics_have_what_was_read_and_written_by_all_of_it(node: Node, tmp_path: Path) -> None:
    def work(path: str) -> None:
        subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=3"], check=True, stderr=subprocess.DEVNULL)
        with open(path, "rb") as file:
            file.read()

    metrics = node.call(work, str(tmp_path / "zeros")).header["metrics"]
    assert 3 << 20 <= metrics["written_bytes"] < 4 << 20
    assert 6 << 20 <= metrics["read_bytes"] < 12 << 20


def test_process_without_children_or_that_is_gone_has_none() -> None:
    assert runner.living_children(2**22 + 1) == []
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in runner.living_children(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert child.pid not in runner.living_children(os.getpid())


# ---------------------------------------------------------------- a loop over several processes


def numbers_squared(numbers: list[int], offset: int = 0) -> list[tuple[int, int]]:
    squares = []
    for number in numbers:
        if number == 13:
            raise ValueError(f"unlucky {number}")
        squares.append((number * number + offset, os.getpid()))
    return squares


def split(node: Node, *args: Any, splits: int = 3, **kwargs: Any) -> Any:
    node.put_call(pack(numbers_squared, [(args, kwargs)], "numbers_squared"), splits=splits)
    finished = node.run()
    if "parts" not in finished.header:
        return finished.value()
    return [item for part in range(finished.header["parts"]) for item in loads(finished.segments[f"value{part}"])]


def test_loop_in_parts_gives_the_list_of_one_call_from_several_processes(node: Node) -> None:
    values = split(node, list(range(10)), offset=1)
    assert [value for value, _ in values] == [number * number + 1 for number in range(10)]
    assert str(os.getpid()) not in {str(pid) for _, pid in values}


def test_each_part_of_a_loop_has_a_process_of_its_own_however_short_it_is(node: Node) -> None:
    """One worker of a pool took all parts of a loop over a few numbers."""
    values = split(node, list(range(6)), splits=6)
    assert len({pid for _, pid in values}) == 6


@pytest.mark.parametrize(("end", "code"), [("os._exit(3)", "3"), ("os.kill(os.getpid(), 9)", "-9")])
def test_part_whose_process_dies_is_an_exception_that_says_how(node: Node, end: str, code: str) -> None:
    def dies(numbers: list[int]) -> list[int]:
        if 2 in numbers:
            exec("import os; " + end)  # noqa: S102 - one of the texts above
        return numbers

    node.put_call(pack(dies, [(([1, 2],), {})], "dies"), splits=2)
    with pytest.raises(ChildProcessError, match=f"ended early, with exit code {code}"):
        node.run().value()


def test_parts_of_a_loop_run_side_by_side(node: Node) -> None:
    def meet(names: list[str]) -> list[bool]:
        Path(names[0]).touch()
        deadline = time.monotonic() + 20
        while len(list(Path().glob("part-*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        return [len(list(Path().glob("part-*"))) == 3]

    node.put_call(pack(meet, [((["part-1", "part-2", "part-3"],), {})], "meet"), splits=3)
    finished = node.run()
    assert [loads(finished.segments[f"value{part}"]) for part in range(3)] == [[True]] * 3


@pytest.mark.parametrize("count", [0, 1, 2])
def test_loop_over_fewer_items_than_processes_is_whole(node: Node, count: int) -> None:
    assert [value for value, _ in split(node, list(range(count)))] == [number * number for number in range(count)]


def test_first_argument_by_name_is_split_too(node: Node) -> None:
    assert [value for value, _ in split(node, numbers=range(4))] == [0, 1, 4, 9]


def test_exception_of_a_part_is_the_job_s(node: Node) -> None:
    with pytest.raises(ValueError, match="unlucky 13") as caught:
        split(node, [1, 13, 2, 3])
    assert caught.traceback[-1].name == "numbers_squared"


# ---------------------------------------------------------------- files


def test_envelope_is_never_seen_half_written(node: Node, tmp_path: Path) -> None:
    """A reader that looks all the time sees nothing or all."""
    path = tmp_path / "value"
    program = f"""
import sys; sys.path.insert(0, {str(Path(runner.__file__).parents[2])!r})
from pytest_clusterjobs.node import runner
for number in range(40):
    runner.write_atomically({str(path)!r}, bytes([number]) * 1_000_000, b"end", fsync=False)
"""
    writer = subprocess.Popen([sys.executable, "-c", program])
    seen = set()
    while writer.poll() is None:
        if path.exists():
            data = path.read_bytes()
            seen.add((len(data), data[-3:], len(set(data[:-3]))))
    assert writer.returncode == 0
    assert seen == {(1_000_003, b"end", 1)}
    assert list(tmp_path.glob("*.tmp")) == []


def test_files_of_the_runner_are_for_us_alone(node: Node) -> None:
    previous = os.umask(0)
    try:
        node.command("true")
    finally:
        os.umask(previous)
    assert {(node.job / name).stat().st_mode & 0o777 for name in ("start.json", "result.cj")} == {0o600}


class Number(int):
    """An integer that writes itself in its own way."""

    def __repr__(self) -> str:
        return "Number!"

    __str__ = __repr__


class Real(float):
    """A float that writes itself in its own way, as NumPy's do."""

    def __repr__(self) -> str:
        return "Real!"


ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    10**30,
    0.1,
    -0.0,
    1e300,
    5e-324,
    "",
    'a"b\\c/\b\f\n\r\t\x00\x1f\x7f',
    "ünïcödé \u2028 😀",
    "\ud800 alone",
    [],
    {},
    [[], {}, [None]],
    {"": {"a b": [1, {"ü": "\n"}]}},
    (1, 2),
    Number(7),
    Real(1.5),
]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_json_writer_and_reader_agree_with_the_json_module(value: Any) -> None:
    text = runner.json_text(value)
    assert "\n" not in text
    assert text.isascii()
    assert json.loads(text) == json.loads(json.dumps(value))
    assert runner.read_json(json.dumps(value)) == json.loads(json.dumps(value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_become_null(value: float) -> None:
    assert runner.json_text([value]) == "[null]"


def test_keys_become_texts() -> None:
    assert json.loads(runner.json_text({1: "a", "b": 2})) == {"1": "a", "b": 2}


@pytest.mark.parametrize("text", ["{", '{"a" 1}', "", "nope", '"a'])
def test_json_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, StopIteration)):
        runner.read_json(text)
