"""Become a job: from a fork of the server to a process that its code cannot tell from a fresh one."""

import atexit
import builtins
import gc
import os
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Optional, Union

from . import local_linux as linux
from . import local_memory as memory
from . import runner

_EXIT_CANNOT_RUN = 127
_LOGS = ("stdout.log", "stderr.log")


@dataclass(eq=False, repr=False)
class Task:
    """One job, as the server knows it."""

    #: The native id.
    native_id: str
    #: The job's directory.
    directory: str
    #: File for the exit code, "" for none.
    marker: str
    #: What its environment has beyond that of its submission.
    own_environment: dict[str, str]
    #: The environment of its submission.
    environment: dict[str, str]
    #: How many cores it asked for.
    count: int
    #: Memory limit in bytes, or None.
    memory_bytes: Optional[int]
    #: Time limit in seconds, or None.
    time_limit_s: Optional[float]
    #: Command to run with the directory added, or None: the runner, here.
    command: Optional[list[str]]
    #: Numbers of the cores that it got.
    cores: list[int] = field(default_factory=list)
    #: Control group that holds its memory limit: folder and version; None: it is held by looking.
    group: Optional[tuple[str, int]] = None


def open_logs(directory: str) -> list[int]:
    """Open the job's log files, to add to them.

    Raises:
        OSError: One cannot be opened.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    logs: list[int] = []
    for name in _LOGS:
        try:
            logs.append(os.open(os.path.join(directory, name), flags, 0o600))
        except OSError:
            close_all(logs)
            raise
    return logs


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def default_signals() -> None:
    """Undo what this process inherited: signals that are ignored, blocked or handled."""
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(signum) not in (signal.SIG_DFL, None):
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def run(
    task: Task,
    limit: Union[memory.WatchLimit, memory.GroupLimit, None],
    logs: list[int],
    closed: Iterable[int],
    parent: int,
) -> int:
    """Be the job, in a new child of its shepherd, and end as a fresh process would. Gives the exit code if it can.

    Args:
        task: The job.
        limit: Its memory limit.
        logs: Descriptors for its output and its errors.
        closed: Descriptors to close.
        parent: The shepherd's process id.
    """
    _reset_signals()
    os.dup2(logs[0], 1)
    os.dup2(logs[1], 2)
    close_all(closed)
    os.setsid()
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(_EXIT_CANNOT_RUN)
    if limit is not None:
        limit.enter()
    os.sched_setaffinity(0, task.cores)
    _set_environment(task.environment | task.own_environment)
    os.chdir(task.directory)
    if task.command is not None:
        return _execute([*task.command, task.directory])
    return _run_here(task.directory)


def _reset_signals() -> None:
    """Set what the server and the shepherd have changed as the interpreter sets it when it starts."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _set_environment(wanted: dict[str, str]) -> None:
    """Make the environment the wanted one; only what differs is touched, for most of it is the server's own."""
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    time.tzset()


def _execute(argv: list[str]) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, dict(os.environ))  # noqa: S606 - argv list, no shell
    except OSError as error:
        sys.stderr.write(f"cannot run {argv[0]}: {error.strerror or error}\n")
        return _EXIT_CANNOT_RUN


def _run_here(directory: str) -> int:
    linux.set_name("cj-job")
    template = set(sys.modules)
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    gc.enable()
    try:
        code = runner.main(directory)
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    _end(template, code)
    return code


_kept: list[types.ModuleType] = []


def _end(template: set[str], code: int) -> None:
    """Do for the job what the interpreter's end does, in its order, and no more.

    Threads are joined, exit functions called, the job's modules cleared and its garbage collected, streams flushed, and
    the C library's end is run. What is left out is taking down the template's own modules, which writes to each of
    their pages and so copies them: 8 ms of 9 for a job that does nothing.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _clear_modules([name for name in sys.modules if name not in template or name == "__main__"])
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except Exception:  # noqa: S110 - the process's edge: closed, replaced by anything, or None
            pass
    linux.libc_exit(code)


def _clear_modules(names: list[str]) -> None:
    """Drop modules; what still lives after that loses its globals, those with an underscore first."""
    dropped = [sys.modules.pop(name) for name in names]
    alive = [weakref.ref(module) for module in dropped if isinstance(module, types.ModuleType)]
    dropped.clear()
    gc.collect()
    for reference in alive:
        module = reference()
        if module is not None:
            names = [name for name in module.__dict__ if name != "__builtins__"]
            for name in sorted(names, key=lambda name: not name.startswith("_")):
                module.__dict__[name] = None
    gc.collect()
