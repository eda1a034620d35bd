"""Run one job on the node; started by ``start.py``.

Reads ``order.json`` and the pickled function and arguments, writes ``start.json`` when it starts and the envelope
``result.cj`` when the function has ended. Standard library only, and nothing newer than Python 3.6 up to the comparison
of versions, so that a wrong Python is reported and not crashed on. Every module imported here is paid by every job.
"""

import os
import pwd
import resource
import sys
import time
import warnings

from . import packing

TYPE_CHECKING = False  # importing typing would cost every job 3 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Tuple

    Segments = Dict[str, bytes]

PROTOCOL = 1
ORDER = "order.json"
START = "start.json"
ENVELOPE = "result.cj"

#: Exit code of the job when it could not be run at all: wrong Python, damaged payload.
EXIT_REFUSED = 97

_MAX_WARNINGS = 200
_SCHEDULER_PREFIXES = ("SLURM_", "PBS_", "SGE_", "LSB_", "LS_", "KUBERNETES_", "CUDA_VISIBLE", "ROCR_", "CLUSTERJOBS_")
_SCHEDULER_NAMES = frozenset(
    {
        *("JOB_ID", "JOB_NAME", "NSLOTS", "NHOSTS", "QUEUE", "PE", "PE_HOSTFILE", "NCPUS", "SSH_CONNECTION"),
        *("HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HOSTNAME", "POD_NAME", "POD_NAMESPACE"),
    }
)
_SECRETS = ("JWT", "TOKEN", "SECRET", "PASSWORD", "PASSPHRASE", "API_KEY")  # as in SLURM_JWT: a way into the scheduler
# What schedulers list a job's hosts in, and where a pod finds its namespace.
_HOST_FILES = ("PBS_NODEFILE", "PE_HOSTFILE", "LSB_DJOB_HOSTFILE")
_POD, _NAMESPACE = "KUBERNETES_SERVICE_HOST", "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_MAX_HOST_LINES = 4096


def main(directory: str) -> int:
    """Run the job in ``directory`` and give the exit code for its process. The envelope is written when it returns."""
    started_at, started = time.time(), time.monotonic()
    with open(os.path.join(directory, ORDER), encoding="utf-8") as file:
        order = read_json(file.read())  # type: Dict[str, Any]
    set_up_process(order, directory)
    write_new(os.path.join(directory, START), json_text(start_facts(started_at)).encode())
    header, segments = perform(order, directory)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: S112 - closed or replaced by the function, or a full disk: its value must not be lost
            continue
    header["metrics"] = measure(started_at, time.monotonic() - started)
    write_envelope(os.path.join(directory, ENVELOPE), header, segments, bool(order.get("fsync", True)))
    return int(header["exit_code"])


def set_up_process(order: "Dict[str, Any]", directory: str) -> None:
    """Give the process what a login would, and the working directory and import path of the place that made the job."""
    if not {"HOME", "USER", "LOGNAME"} <= set(os.environ):
        name_user()
    os.environ["PWD"] = enter(order.get("cwd") or directory)
    os.environ["CLUSTERJOBS_JOB_ID"] = order["job_id"]
    # A crash would leave a core file of any size where the tests were started. The function may raise the limit again.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    sys.path.extend(path for path in order.get("sys_path", []) if path not in sys.path)
    sys.argv = [order.get("label", "job")]


def name_user() -> None:
    """Put into the environment who runs this; asking for it may mean to ask over the network."""
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:  # a container that runs as a user of no name
        return
    os.environ.setdefault("HOME", account.pw_dir)
    os.environ.setdefault("USER", account.pw_name)
    os.environ.setdefault("LOGNAME", account.pw_name)


def enter(path: str) -> str:
    """Change to a directory and give where this process then is."""
    try:
        os.chdir(path)
    except OSError:
        return os.getcwd()
    return path


def perform(order: "Dict[str, Any]", directory: str) -> "Tuple[Dict[str, Any], Segments]":
    """Run what the order says and give the envelope's header and segments."""
    if order.get("cwd", os.environ["PWD"]) != os.environ["PWD"]:
        return refused("launch", "the node does not see the working directory {}".format(order["cwd"]))
    if order["kind"] == "command":
        return run_command(order["argv"])
    wanted, here = tuple(order["python"]), sys.version_info[:2]
    if wanted != here:
        return refused(
            "environment",
            "the job was packed by Python {0}.{1} and the node runs Python {2} ({3}); pickles of functions cross no "
            "minor versions: name one of the nodes' {0}.{1} in the key python of the profile".format(
                wanted[0], wanted[1], sys.version.split()[0], sys.executable
            ),
        )
    try:
        packing.use_cloudpickle_of(os.path.join(directory, order["lib"]))
        function = packing.load_checked(order["function"], directory)
        args, kwargs = packing.load_checked(order["arguments"], directory)
    except BaseException:
        import traceback

        return refused("payload", "the function or its arguments cannot be loaded on the node", traceback.format_exc())
    if order.get("splits", 0) > 1:
        return run_split(function, args, kwargs, int(order["splits"]), order["home"])
    return run_function(lambda: function(*args, **kwargs), order["home"])


def run_command(argv: "List[str]") -> "Tuple[Dict[str, Any], Segments]":
    """Run a command to its end, passing SIGTERM on to it."""
    import signal
    import subprocess

    running, asked = [], []  # type: List[Any], List[int]

    def pass_on(number: int, _frame: object) -> None:
        asked.append(number)
        for each in running:
            each.terminate()

    signal.signal(signal.SIGTERM, pass_on)  # before there is a command that it could leave behind
    try:
        process = subprocess.Popen(argv)
    except OSError as error:
        return refused("launch", "cannot run {!r}: {}".format(argv[0], error.strerror or error))
    running.append(process)
    if asked:
        process.terminate()
    code = process.wait()
    header = {"outcome": "exit", "exit_code": 128 - code if code < 0 else code, "signal": -code if code < 0 else None}
    return header, {}


def run_function(call: "Callable[[], Any]", home: "List[str]") -> "Tuple[Dict[str, Any], Segments]":
    """Call a function and pack its value or its exception, with the warnings it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            value = call()
            if hasattr(value, "__await__") and hasattr(value, "send"):
                import asyncio

                value = asyncio.run(value)
        except BaseException as error:
            header, segments = packing.pack_exception(error, home)
        else:
            header, segments = packing.pack_value(value, home)
    if caught:
        segments["warnings"] = packing.pack_warnings(caught[:_MAX_WARNINGS], home)
    return header, segments


def refused(why: str, text: str, details: str = "") -> "Tuple[Dict[str, Any], Segments]":
    """Make the envelope of a job whose code was not run."""
    packing.complain(text + "\n" + details)
    return {"outcome": "refused", "why": why, "text": text, "details": details, "exit_code": EXIT_REFUSED}, {}


# ---------------------------------------------------------------- a loop over several processes


_split_call = None  # type: Callable[[int], Any] | None


def run_split(
    function: "Callable[..., Any]", args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]", splits: int, home: "List[str]"
) -> "Tuple[Dict[str, Any], Segments]":
    """Call a per-item loop on parts of its first argument, each in a process; their lists are joined at home."""
    global _split_call
    names = [] if args else list(kwargs)[:1]
    whole = kwargs[names[0]] if names else args[0]
    items = list(whole) if hasattr(whole, "__iter__") else []
    splits = min(splits, len(items))
    if splits < 2:
        return run_function(lambda: function(*args, **kwargs), home)
    bounds = [len(items) * part // splits for part in range(splits + 1)]

    def call(part: int) -> "Any":
        mine = items[bounds[part] : bounds[part + 1]]
        return function(**dict(kwargs, **{names[0]: mine})) if names else function(mine, *args[1:], **kwargs)

    _split_call = call
    done = []  # type: List[Tuple[Dict[str, Any], Segments]]
    header, segments = run_function(lambda: done.extend(_run_parts(splits, home)), home)
    if not done:
        return header, segments  # a part's process was killed
    failed = [part for part in done if part[0]["outcome"] != "value"]
    if failed:
        return failed[0]
    joined = {"{}{}".format(name, index): data for index, (_, part) in enumerate(done) for name, data in part.items()}
    return {"outcome": "value", "exit_code": 0, "parts": splits}, joined


def _run_parts(splits: int, home: "List[str]") -> "List[Tuple[Dict[str, Any], Segments]]":
    import multiprocessing

    context = multiprocessing.get_context("fork")
    started = []  # type: List[Tuple[Any, Any]]
    for part in range(splits):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_part, args=(part, home, sender))
        process.start()
        sender.close()  # so that the end of the part's process ends what it sends
        started.append((process, receiver))
    return [_result_of(process, receiver) for process, receiver in started]


def _run_part(part: int, home: "List[str]", sender: "Any") -> None:
    assert _split_call is not None  # noqa: S101 - set before the fork
    sender.send(run_function(lambda: _split_call(part), home))


def _result_of(process: "Any", receiver: "Any") -> "Any":
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(
            "a process of the loop ended early, with exit code {}".format(process.exitcode)
        ) from None
    process.join()
    return result


# ---------------------------------------------------------------- facts and files


def start_facts(started_at: float) -> "Dict[str, Any]":
    """Tell what the node really gives: seen here, not read from what was asked for."""
    told = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(_SCHEDULER_PREFIXES) or name in _SCHEDULER_NAMES)
        and not any(word in name.upper() for word in _SECRETS)
    }
    return {
        "node": os.uname().nodename,
        "pid": os.getpid(),
        "started_at": started_at,
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "cpus": sorted(os.sched_getaffinity(0)),
        "threads_per_core": threads_per_core(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cgroup": cgroup_limits(),
        "rlimits": {name: list(resource.getrlimit(getattr(resource, name))) for name in ("RLIMIT_AS", "RLIMIT_CPU")},
        "gpus": gpu_devices(),
        "environment": told,
        "variables": sorted(os.environ),
        "files": listed_in_files(told),
    }


def threads_per_core() -> int:
    """Count the hardware threads that share the first of this process's CPUs' core, itself included; 1 if unknown."""
    path = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list".format(min(os.sched_getaffinity(0)))
    count = 0
    for part in ",".join(_lines(path)).split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            count += int(last or first) - int(first) + 1
    return count or 1


def gpu_devices() -> "List[str]":
    """Name the GPUs that have a device file here: NVIDIA's, and AMD's where the driver for computing is there."""
    names = os.listdir("/dev")
    found = sorted(name for name in names if name.startswith("nvidia") and name[6:].isdigit())
    if "kfd" in names and os.path.isdir("/dev/dri"):
        found += sorted(name for name in os.listdir("/dev/dri") if name.startswith("renderD"))
    return found


def listed_in_files(told: "Dict[str, str]") -> "Dict[str, List[str]]":
    """Give the lines of the files that variables name, and of a pod's namespace; none for a file that is not there."""
    paths = {name: told[name] for name in _HOST_FILES if name in told}
    if _POD in told:
        paths["namespace"] = _NAMESPACE
    return {name: _lines(path)[:_MAX_HOST_LINES] for name, path in paths.items() if os.path.exists(path)}


def cgroup_limits() -> "Dict[str, str]":
    """Read the tightest memory and CPU limits of this process's control groups and all above, version 1 and 2."""
    found = {}  # type: Dict[str, str]
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            top = "/sys/fs/cgroup/" + controller
            while controller in _READERS:
                _READERS[controller](found, top + path.rstrip("/") + "/")
                if path in ("", "/"):
                    break
                path = path.rpartition("/")[0]
    return found


def _read_unified(found: "Dict[str, str]", folder: str) -> None:
    _tighten(found, "memory.max", _first(folder + "memory.max"))
    _tighten(found, "cpu.max", _first(folder + "cpu.max"))


def _read_memory(found: "Dict[str, str]", folder: str) -> None:
    _tighten(found, "memory.limit_in_bytes", _first(folder + "memory.limit_in_bytes"))


def _read_cpu(found: "Dict[str, str]", folder: str) -> None:
    _tighten(found, "cpu.max", _first(folder + "cpu.cfs_quota_us") + " " + _first(folder + "cpu.cfs_period_us"))


_READERS = {"": _read_unified, "memory": _read_memory, "cpu": _read_cpu}


def _tighten(found: "Dict[str, str]", name: str, text: str) -> None:
    """Keep the smaller of two limits, each a number or two whose ratio counts; a word or less than 0 is no limit."""
    numbers = text.split()
    if numbers and all(number.isdigit() for number in numbers):
        before = found.get(name, "").split()
        if not before or _ratio(numbers) < _ratio(before):
            found[name] = " ".join(numbers)


def _ratio(numbers: "List[str]") -> float:
    return int(numbers[0]) / (int(numbers[1]) or 1) if len(numbers) > 1 else float(numbers[0])


def _first(path: str) -> str:
    return "".join(_lines(path)[:1])


def _lines(path: str) -> "List[str]":
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def measure(started_at: float, run_time_s: float) -> "Dict[str, Any]":
    """Measure this process, its ended children, and the children of theirs that still live."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "started_at": started_at,
        "ended_at": time.time(),
        "run_time_s": run_time_s,
        "cpu_time_s": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "max_rss_bytes": max(own.ru_maxrss, children.ru_maxrss) * 1024,  # kilobytes on Linux, getrusage(2)
    }
    found.update(_read_and_written(os.getpid()))  # of ended children too
    for pid in living_children(os.getpid()):
        found["cpu_time_s"] += _cpu_time_s(pid)
        found["max_rss_bytes"] = max(found["max_rss_bytes"], _max_rss_bytes(pid))
        for name, count in _read_and_written(pid).items():
            found[name] = found.get(name, 0) + count
    return found


def living_children(pid: int) -> "List[int]":
    """Give the processes that a process has started and that live, theirs too (proc(5): kernels with PROC_CHILDREN)."""
    family = [pid]
    for parent in family:  # which grows as it goes
        try:
            threads = os.listdir("/proc/{}/task".format(parent))
        except OSError:
            continue
        for thread in threads:
            family.extend(map(int, _first("/proc/{}/task/{}/children".format(parent, thread)).split()))
    return family[1:]


def _cpu_time_s(pid: int) -> float:
    """Give the CPU seconds of a process and its ended children: proc(5), stat, fields 14 to 17."""
    fields = _first("/proc/{}/stat".format(pid)).rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _max_rss_bytes(pid: int) -> int:
    values = [line.split()[1] for line in _lines("/proc/{}/status".format(pid)) if line.startswith("VmHWM:")]
    return int(values[0]) * 1024 if values else 0


def _read_and_written(pid: int) -> "Dict[str, int]":
    """Give the bytes that a process and its ended children read and wrote: proc(5), io, rchar and wchar."""
    names = {"rchar": "read_bytes", "wchar": "written_bytes"}
    counts = [line.partition(": ") for line in _lines("/proc/{}/io".format(pid))]
    return {names[name]: int(count) for name, _, count in counts if name in names}


def write_envelope(path: str, header: "Dict[str, Any]", segments: "Segments", fsync: bool) -> None:
    """Write the header as one line of JSON, then the segments; the header has their sizes and one checksum."""
    layout = [[name, len(data)] for name, data in segments.items()]
    header.update(protocol=PROTOCOL, segments=layout, sha256=packing.sha256(*segments.values()))
    write_atomically(path, json_text(header).encode() + b"\n", *segments.values(), fsync=fsync)


def write_new(path: str, data: bytes) -> None:
    """Write a file at once, for readers that wait when it is not whole yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def write_atomically(path: str, *parts: bytes, fsync: bool) -> None:
    """Write a file under a temporary name and rename it, so that it is never seen half written."""
    temporary = "{}.{}.tmp".format(path, os.getpid())
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        if fsync:
            os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(text: str) -> "Any":
    """Read a JSON value with the scanner in C alone; the json module would load the regular expressions too."""
    try:
        from _json import make_scanner
    except ImportError:
        import json

        return json.loads(text)
    return make_scanner(_ScannerContext())(text, 0)[0]  # type: ignore[arg-type]  # all that it looks at is there


class _ScannerContext:
    """What json.JSONDecoder would tell the scanner."""

    def __init__(self) -> None:
        self.strict = True
        self.object_hook = self.object_pairs_hook = None
        self.parse_float, self.parse_int, self.parse_constant = float, int, float
        self.memo = {}  # type: Dict[str, str]


def json_text(value: "Any") -> str:
    """Write a value made of dictionaries, lists, texts, numbers, booleans and None as one line of JSON."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return float.__repr__(value) if value - value == 0 else "null"
    if isinstance(value, dict):
        return "{" + ", ".join(_quoted(str(key)) + ": " + json_text(item) for key, item in value.items()) + "}"
    return "[" + ", ".join(json_text(item) for item in value) + "]"


def _quoted(text: str) -> str:
    try:
        from _json import encode_basestring_ascii
    except ImportError:
        import json

        return json.dumps(text)
    return str(encode_basestring_ascii(text))
