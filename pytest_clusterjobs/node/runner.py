"""Run one job on the node: ``python runner.py JOB_DIRECTORY``.

Reads ``order.json`` and the pickled function and arguments, writes ``start.json`` when it starts and the envelope
``result.cj`` when the function has ended. Standard library and the shipped cloudpickle only, and nothing newer than
Python 3.6 up to the comparison of versions, so that a wrong Python is reported and not crashed on.

Pickles refer to `LazyModule` and `NestedFunction` as members of ``pytest_clusterjobs.node.runner``; the runner answers
to that name without the package being there.
"""

import builtins
import contextlib
import hashlib
import io
import json
import os
import pickle
import pkgutil
import platform
import pwd
import resource
import signal
import subprocess
import sys
import time
import traceback
import types
import warnings
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

PROTOCOL = 1
ORDER = "order.json"
START = "start.json"
ENVELOPE = "result.cj"

#: Exit code of the runner when the function raised.
EXIT_EXCEPTION = 1
#: Exit code of the runner when the job could not be run at all: wrong Python, damaged payload.
EXIT_REFUSED = 97

_MAX_WARNINGS = 200
_MAX_CHAIN = 10
_MAX_FRAMES = 200
_SCHEDULER_PREFIXES = ("SLURM_", "PBS_", "SGE_", "LSB_", "LS_", "KUBERNETES_", "CUDA_VISIBLE", "ROCR_", "CLUSTERJOBS_")
_SCHEDULER_NAMES = ("JOB_ID", "JOB_NAME", "NSLOTS", "NHOSTS", "QUEUE", "PE", "PE_HOSTFILE", "NCPUS", "SSH_CONNECTION")

Segments = Dict[str, bytes]


class LazyModule(types.ModuleType):
    """A module that is imported when something is asked of it. Assertion rewriting's helpers travel as this."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__dict__["_prepare"] = _prepare_assertions if name == "_pytest.assertion.rewrite" else None

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute.endswith("__"):
            raise AttributeError(attribute)
        import importlib

        module = importlib.import_module(self.__name__)
        prepare = self.__dict__.pop("_prepare", None)
        if prepare is not None:
            prepare()
        return getattr(module, attribute)

    def __reduce__(self) -> Any:
        return LazyModule, (self.__name__,)


class NestedFunction:
    """A decorated function inside a job. A job that submits jobs is refused unless ``CLUSTERJOBS_NESTED`` allows it."""

    def __init__(self, function: Callable[..., Any], options: Dict[str, Any]) -> None:
        self.local = function
        self.options_given = options
        self.__name__ = getattr(function, "__name__", "function")

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        mode = os.environ.get("CLUSTERJOBS_NESTED", "error")
        if mode == "local":
            return self.local(*args, **kwargs)
        if mode == "submit":
            from pytest_clusterjobs import cluster

            return cluster(**self.options_given)(self.local)(*args, **kwargs)
        raise RuntimeError(
            "{0}() is decorated with @cluster and was called inside a job, which would submit another one. Call "
            "{0}.local(...) to run it here, or set CLUSTERJOBS_NESTED to 'local' or 'submit' in the job's env.".format(
                self.__name__
            )
        )


# ---------------------------------------------------------------- the life of a job


def main(directory: str) -> int:
    """Run the job in ``directory`` and give the exit code for its process. The envelope is written when it returns."""
    started_at, started = time.time(), time.monotonic()
    with open(os.path.join(directory, ORDER), encoding="utf-8") as file:
        order = json.load(file)  # type: Dict[str, Any]
    set_up_process(order)
    write_atomically(os.path.join(directory, START), json.dumps(start_facts(started_at)).encode(), fsync=False)
    header, segments = perform(order, directory)
    sys.stdout.flush()
    sys.stderr.flush()
    header["metrics"] = measure(started_at, time.monotonic() - started)
    write_envelope(os.path.join(directory, ENVELOPE), header, segments, bool(order.get("fsync", True)))
    return int(header["exit_code"])


def set_up_process(order: Dict[str, Any]) -> None:
    """Give the process what a login would, and the import path of the place where the job was made."""
    account = pwd.getpwuid(os.getuid())
    os.environ.setdefault("HOME", account.pw_dir)
    os.environ.setdefault("USER", account.pw_name)
    os.environ.setdefault("LOGNAME", account.pw_name)
    if order.get("cwd"):
        os.chdir(order["cwd"])
    os.environ["PWD"] = os.getcwd()
    os.environ["CLUSTERJOBS_JOB_ID"] = order["job_id"]
    # A crash would leave a core file of any size where the tests were started. The function may raise the limit again.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    sys.path.extend(path for path in order.get("sys_path", []) if path not in sys.path)
    sys.argv = [order.get("label", "job")]
    sys.modules["pytest_clusterjobs.node.runner"] = sys.modules[__name__]


def perform(order: Dict[str, Any], directory: str) -> Tuple[Dict[str, Any], Segments]:
    """Run what the order says and give the envelope's header and segments."""
    if order["kind"] == "command":
        return run_command(order["argv"])
    wanted, here = tuple(order["python"]), sys.version_info[:2]
    if wanted != here:
        return refused(
            "environment",
            "the job was packed by Python {}.{} and the node runs Python {} ({}); pickles of functions do not cross "
            "minor versions".format(wanted[0], wanted[1], platform.python_version(), sys.executable),
        )
    try:
        load_cloudpickle(order["lib"])
        function = load_checked(order["function"])
        args, kwargs = load_checked(order["arguments"])
    except BaseException:
        return refused("payload", "the function or its arguments cannot be loaded on the node", traceback.format_exc())
    if order.get("splits", 0) > 1:
        return run_split(function, args, kwargs, int(order["splits"]), order["home"])
    return run_function(lambda: function(*args, **kwargs), order["home"])


def run_command(argv: List[str]) -> Tuple[Dict[str, Any], Segments]:
    """Run a command to its end, passing SIGTERM on to it."""
    try:
        process = subprocess.Popen(argv)
    except OSError as error:
        return refused("launch", "cannot run {!r}: {}".format(argv[0], error.strerror or error))
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    header = {"outcome": "exit", "exit_code": 128 - code if code < 0 else code, "signal": -code if code < 0 else None}
    return header, {}


def run_function(call: Callable[[], Any], home: List[str]) -> Tuple[Dict[str, Any], Segments]:
    """Call a function and pack its value or its exception, with the warnings it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            value = call()
            if hasattr(value, "__await__") and hasattr(value, "send"):
                import asyncio

                value = asyncio.run(value)
        except BaseException as error:
            header, segments = pack_exception(error, home)
        else:
            header, segments = pack_value(value, home)
    if caught:
        segments["warnings"] = pack_warnings(caught[:_MAX_WARNINGS], home)
    return header, segments


def refused(why: str, text: str, details: str = "") -> Tuple[Dict[str, Any], Segments]:
    """Make the envelope of a job whose code was not run."""
    sys.stderr.write(text + "\n" + details)
    return {"outcome": "refused", "why": why, "text": text, "details": details, "exit_code": EXIT_REFUSED}, {}


# ---------------------------------------------------------------- a loop over several processes


_split_call = None  # type: Optional[Callable[[int], Any]]


def run_split(
    function: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any], splits: int, home: List[str]
) -> Tuple[Dict[str, Any], Segments]:
    """Call a per-item loop on consecutive parts of its first argument, each in a process, and join the lists."""
    import concurrent.futures
    import multiprocessing

    global _split_call
    rest = dict(kwargs)
    items = list(args[0]) if args else list(rest.pop(next(iter(kwargs))))
    first = None if args else next(iter(kwargs))
    splits = max(1, min(splits, len(items)))
    bounds = [len(items) * part // splits for part in range(splits + 1)]

    def call(part: int) -> Any:
        mine = items[bounds[part] : bounds[part + 1]]
        return function(mine, *args[1:], **rest) if first is None else function(**{first: mine}, **rest)

    _split_call = call
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(splits, mp_context=context) as pool:
        parts = list(pool.map(_run_part, range(splits), [home] * splits))
    for header, segments in parts:
        if header["outcome"] != "value":
            return header, segments
    values = [pickle.loads(segments["value"]) for _, segments in parts]  # noqa: S301 - made by our own children
    return pack_value([item for value in values for item in value], home)


def _run_part(part: int, home: List[str]) -> Tuple[Dict[str, Any], Segments]:
    assert _split_call is not None  # noqa: S101 - set before the fork
    return run_function(lambda: _split_call(part), home)


# ---------------------------------------------------------------- packing


def load_cloudpickle(lib: str) -> Any:
    """Import the shipped cloudpickle, whatever else is installed."""
    if "cloudpickle" not in sys.modules:
        sys.path.insert(0, lib)
        try:
            import cloudpickle  # noqa: F401 - for its entry in sys.modules
        finally:
            sys.path.remove(lib)
    return sys.modules["cloudpickle"]


def load_checked(part: Dict[str, Any]) -> Any:
    """Unpickle a file of the job's directory after its checksum was compared."""
    with open(part["path"], "rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise ValueError("{} is not what was sent: its checksum differs".format(part["path"]))
    return pickle.loads(data)  # noqa: S301 - ours, and the checksum is right


def dumps(value: Any, home: List[str], named: Optional[Dict[str, Any]] = None) -> bytes:
    """Pickle for the way home: classes and functions of the modules in ``home`` go by name, for they live there.

    Args:
        value: What is pickled.
        home: Names of modules that are not here, or are others here than at home.
        named: Filled with what went by name.
    """
    import cloudpickle

    modules = frozenset(home)

    class HomewardPickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            name = hidden_name(obj)
            if not name and isinstance(obj, (type, types.FunctionType)) and obj.__module__ in modules:
                name = "" if "<" in obj.__qualname__ else "{}:{}".format(obj.__module__, obj.__qualname__)
            if not name:
                return super().reducer_override(obj)
            if named is not None:
                named[name] = obj
            return pkgutil.resolve_name, (name,)

    buffer = io.BytesIO()
    HomewardPickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def hidden_name(obj: Any) -> str:
    """Give the real name of a class that claims to be a built-in, as pytest's outcomes do; "" for all others."""
    if isinstance(obj, type) and obj.__module__ == "builtins" and not hasattr(builtins, obj.__name__):
        outcomes = sys.modules.get("_pytest.outcomes")
        if getattr(outcomes, obj.__name__, None) is obj:
            return "_pytest.outcomes:" + obj.__name__
    return ""


def survives(data: bytes, named: Dict[str, Any], kind: type) -> bool:
    """Tell whether a pickle can be unpickled at home, without importing here what lives only there."""

    class Rehearsal(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == ("pkgutil", "resolve_name"):
                return named.__getitem__
            return super().find_class(module, name)

    return type(Rehearsal(io.BytesIO(data)).load()) is kind


def pack_value(value: Any, home: List[str]) -> Tuple[Dict[str, Any], Segments]:
    """Pack a value; one that cannot be pickled becomes a typed outcome with its text."""
    try:
        return {"outcome": "value", "exit_code": 0}, {"value": dumps(value, home)}
    except BaseException as error:
        text = "the function returned a {} that cannot be pickled: {}: {}".format(
            type(value).__name__, type(error).__name__, error
        )
        sys.stderr.write(text + "\n")
        header = {"outcome": "unpicklable", "text": text, "repr": short_repr(value), "exit_code": EXIT_EXCEPTION}
        return header, {}


def pack_exception(error: BaseException, home: List[str]) -> Tuple[Dict[str, Any], Segments]:
    """Pack an exception with its causes, each with its frames, its text, and its pickle where it survives one."""
    chain = []  # type: List[Dict[str, Any]]
    segments = {}  # type: Segments
    link = ""
    current = error  # type: Optional[BaseException]
    while current is not None and len(chain) < _MAX_CHAIN:
        pickled = pickle_exception(current, home)
        if pickled is not None:
            segments["exception{}".format(len(chain))] = pickled
        chain.append(describe_exception(current, link))
        if current.__cause__ is not None:
            link, current = "cause", current.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            link, current = "context", current.__context__
        else:
            current = None
    text = "".join(traceback.format_exception(type(error), error, without_own_frames(error.__traceback__)))
    if not is_pytest_outcome(error):
        sys.stderr.write(text)
    code = error.code if isinstance(error, SystemExit) else EXIT_EXCEPTION
    header = {"outcome": "exception", "chain": chain, "traceback": text}  # type: Dict[str, Any]
    header["exit_code"] = code if isinstance(code, int) else 0 if code is None else EXIT_EXCEPTION
    return header, segments


def is_pytest_outcome(error: BaseException) -> bool:
    """Tell whether it is a skip, fail or xfail, which pytest reports in its own way."""
    return any(base.__module__ == "_pytest.outcomes" for base in type(error).__mro__)


def pickle_exception(error: BaseException, home: List[str]) -> Optional[bytes]:
    """Pickle an exception and try it, since many can be pickled and not unpickled; None when it does not survive."""
    named = {}  # type: Dict[str, Any]
    try:
        data = dumps(error, home, named)
        return data if survives(data, named, type(error)) else None
    except BaseException:
        return None


def describe_exception(error: BaseException, link: str) -> Dict[str, Any]:
    """Describe one exception of a chain in JSON types."""
    frames = []  # type: List[List[Any]]
    tb = without_own_frames(error.__traceback__)
    while tb is not None and len(frames) < _MAX_FRAMES:
        code = tb.tb_frame.f_code
        frames.append([code.co_filename, code.co_name, code.co_firstlineno, tb.tb_lineno, columns(tb)])
        tb = tb.tb_next
    return {
        "link": link,
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "message": str_of(error),
        "notes": [str(note) for note in getattr(error, "__notes__", [])],
        "frames": frames,
    }


def columns(tb: Any) -> Optional[List[Optional[int]]]:
    """Give end line, column and end column of where a frame stands, if this Python knows (from 3.11 on)."""
    positions = getattr(tb.tb_frame.f_code, "co_positions", None)
    if positions is None:
        return None
    for index, (_, end_line, column, end_column) in enumerate(positions()):
        if index == tb.tb_lasti // 2:
            return [end_line, column, end_column]
    return None


def without_own_frames(tb: Any) -> Any:
    """Drop the runner's frames from the top of a traceback."""
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    return tb


def pack_warnings(caught: List[Any], home: List[str]) -> bytes:
    """Pack warnings as (message, category, filename, lineno); one that cannot be pickled goes as its text."""
    packed = []
    for warning in caught:
        try:
            dumps((warning.message, warning.category), home)
            packed.append((warning.message, warning.category, warning.filename, warning.lineno))
        except BaseException:
            packed.append((str(warning.message), UserWarning, warning.filename, warning.lineno))
    return dumps(packed, home)


def str_of(error: BaseException) -> str:
    """Give ``str(error)``, even of an exception whose ``__str__`` fails."""
    try:
        return str(error)
    except BaseException as failure:
        return "<str() failed: {}>".format(type(failure).__name__)


def short_repr(value: Any) -> str:
    """Give a repr of at most 500 characters, even of an object whose ``__repr__`` fails."""
    try:
        return repr(value)[:500]
    except BaseException as failure:
        return "<repr() failed: {}>".format(type(failure).__name__)


def _prepare_assertions() -> None:
    """Make a failing assert here explain itself as it would at home: through pytest's own comparison hooks."""
    with contextlib.suppress(Exception):
        from _pytest import assertion
        from _pytest.config import get_config

        config = get_config()
        config.parse(
            ["-p", "no:cacheprovider", "-p", "no:clusterjobs", "-c", os.devnull, "--rootdir", os.getcwd()]
            + (["-" + "v" * int(os.environ["CLUSTERJOBS_VERBOSITY"])] if "CLUSTERJOBS_VERBOSITY" in os.environ else [])
        )
        item = types.SimpleNamespace(config=config, ihook=config.hook)
        hook = assertion.pytest_runtest_protocol(item)  # type: ignore[arg-type]
        next(hook)
        _kept.append(hook)


_kept = []  # type: List[Any]


# ---------------------------------------------------------------- facts and files


def start_facts(started_at: float) -> Dict[str, Any]:
    """Tell what the node really gives: seen here, not read from what was asked for."""
    return {
        "node": platform.node(),
        "pid": os.getpid(),
        "started_at": started_at,
        "python": platform.python_version(),
        "executable": sys.executable,
        "cpus": sorted(os.sched_getaffinity(0)),
        "cgroup": cgroup_limits(),
        "rlimits": {name: list(resource.getrlimit(getattr(resource, name))) for name in ("RLIMIT_AS", "RLIMIT_CPU")},
        "gpus": sorted(name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()),
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_SCHEDULER_PREFIXES) or name in _SCHEDULER_NAMES
        },
    }


def cgroup_limits() -> Dict[str, str]:
    """Read the memory and CPU limits of this process's control groups, version 1 and 2."""
    found = {}  # type: Dict[str, str]
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for name in ("memory.max", "cpu.max"):
                found.update(_limit(name, "/sys/fs/cgroup" + path))
        elif controllers == "memory":
            found.update(_limit("memory.limit_in_bytes", "/sys/fs/cgroup/memory" + path))
        elif "cpuset" in controllers.split(","):
            found.update(_limit("cpuset.cpus", "/sys/fs/cgroup/cpuset" + path))
    return found


def _limit(name: str, folder: str) -> Iterator[Tuple[str, str]]:
    for line in _lines(os.path.join(folder, name)):
        yield name, line.strip()


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []


def measure(started_at: float, run_time_s: float) -> Dict[str, Any]:
    """Measure this process and its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "started_at": started_at,
        "ended_at": time.time(),
        "run_time_s": run_time_s,
        "cpu_time_s": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "max_rss_bytes": max(own.ru_maxrss, children.ru_maxrss) * 1024,  # kilobytes on Linux, getrusage(2)
    }


def write_envelope(path: str, header: Dict[str, Any], segments: Segments, fsync: bool) -> None:
    """Write the header as one line of JSON, then the segments; the header has their sizes and one checksum."""
    digest, layout = hashlib.sha256(), []
    for name, data in segments.items():
        digest.update(data)
        layout.append([name, len(data)])
    header.update(protocol=PROTOCOL, segments=layout, sha256=digest.hexdigest())
    write_atomically(path, json.dumps(header).encode() + b"\n", *segments.values(), fsync=fsync)


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


if __name__ == "__main__":
    del sys.path[0]  # this folder holds nothing to import
    sys.exit(main(sys.argv[1]))
