"""From a call or a command to directories on disk and a submission."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_clusterjobs.core.errors import SpecError
from pytest_clusterjobs.core.naming import slug
from pytest_clusterjobs.core.redaction import Secret, redact
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.engine.payload import Payload, import_path, pack
from pytest_clusterjobs.engine.store import Store

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


# What a job needs of the caller's environment even when it inherits nothing: what a login would set.
_BASELINE = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
# Ours and pytest's own: options, and what would make a program in the job believe that it is under test.
# And what opens 1Password (1Password CLI 2, "Environment variables"): a job is given single secrets.
_NOT_INHERITED = ("CLUSTERJOBS_", "PYTEST_", "OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_TOKEN", "OP_SESSION_")


@dataclass(frozen=True, slots=True)
class Work:
    """One job to be: a call of a function, or a command."""

    #: What was asked for.
    spec: JobSpec
    #: Its name for people.
    label: str
    #: The function, or None for a command.
    function: Callable[..., Any] | None = None
    #: Its positional arguments.
    args: tuple[Any, ...] = ()
    #: Its keyword arguments.
    kwargs: dict[str, Any] = field(default_factory=dict)
    #: The command, empty for a call.
    argv: tuple[str, ...] = ()
    #: How to name an argument in a message.
    names: Mapping[str, str] = field(default_factory=dict)


def command_work(command: str | Sequence[object], spec: JobSpec, label: str = "") -> Work:
    """Make the work that runs a command: an argv list as it is, a text by ``bash -c``.

    Raises:
        SpecError: The command is empty, or no text and no list of texts, or has a secret in it.
    """
    for word in (command,) if isinstance(command, str) else command:
        if isinstance(word, Secret) or redact(str(word)) != str(word):
            raise SpecError(
                "the command has a secret in it, which everybody on the node can see; give it in env, and use $NAME"
            )
    argv = ("/bin/bash", "-c", command) if isinstance(command, str) else tuple(str(word) for word in command)
    if not argv or not argv[-1].strip():
        raise SpecError(f"the command {command!r} is empty")
    if any("\0" in word for word in argv):
        raise SpecError(f"the command {command!r} has a NUL character")
    first = command.split()[0] if isinstance(command, str) else argv[0]
    return Work(spec, label or os.path.basename(first), argv=argv)


def name_of(run_id: str, job_id: str, work: Work) -> str:
    """Give the name that the scheduler is told: unique, and found by its beginning."""
    return f"cj-{run_id}-{job_id}-{slug(work.spec.name or work.label)}"


def prepare(
    store: Store,
    works: Sequence[Work],
    job_ids: Sequence[str],
    directory: str,
    *,
    is_durable: bool,
    shares_files: bool = True,
) -> tuple[str, ...]:
    """Make the directories of jobs that are submitted together, with all that their nodes need.

    Args:
        store: Where the directories are.
        works: What the jobs run.
        job_ids: Their ids.
        directory: Where they are made.
        is_durable: Have results written through to the disk: another machine may read them, or this one later.
        shares_files: Have them run in this process's working directory, with its import path; else in their own.

    Returns:
        The jobs' directories: ``directory`` itself for one job, ``directory/0`` and so on for several.

    Raises:
        PayloadError: Something cannot be sent.
        StoreError: A directory cannot be made.
    """
    payloads = _pack_all(works)
    store.transport.make_directory(directory)
    paths = (directory,) if len(works) == 1 else tuple(os.path.join(directory, str(i)) for i in range(len(works)))
    here = {"cwd": os.getcwd(), "sys_path": import_path()} if shares_files else {}
    functions: dict[int, dict[str, str]] = {}
    used: dict[int, int] = {}
    for work, job_id, path in zip(works, job_ids, paths, strict=True):
        order: dict[str, Any] = {"job_id": job_id, "label": work.label, "kind": "command", **here}
        order["fsync"] = is_durable
        if work.function is None:
            order["argv"] = list(work.argv)
        else:
            key = id(work.function)
            payload = payloads[key]
            if key not in functions:
                part = store.write_part(directory, f"function-{len(functions)}.pkl", payload.function)
                functions[key] = {**part, "path": os.path.join(os.path.relpath(directory, path), part["path"])}
            store.transport.make_directory(path)
            arguments = store.write_part(path, "arguments.pkl", payload.arguments[used.setdefault(key, 0)])
            used[key] += 1
            order |= {"kind": "call", "function": functions[key], "arguments": arguments, "home": list(payload.home)}
            order["splits"] = _splits(work)
        store.make_job(path, order)
    return paths


def _pack_all(works: Sequence[Work]) -> dict[int, Payload]:
    calls: dict[int, list[Work]] = {}
    for work in works:
        if work.function is not None:
            calls.setdefault(id(work.function), []).append(work)
    return {
        key: pack(group[0].function, [(work.args, work.kwargs) for work in group], group[0].label, group[0].names)  # type: ignore[arg-type]
        for key, group in calls.items()
    }


def _splits(work: Work) -> int:
    if not work.spec.parallel or work.function is None:
        return 0
    from pytest_clusterjobs.engine.loops import why_not_split

    reason = why_not_split(work.function, *work.args, **work.kwargs)
    if reason is None:
        return work.spec.cores
    code = getattr(work.function, "__code__", None)
    where = (code.co_filename, code.co_firstlineno) if code is not None else (__file__, 1)
    warnings.warn_explicit(
        f"parallel=True ignored for {work.label}(): {reason}; it runs once, whole", UserWarning, *where
    )
    return 0


def inherited_environment(inherit: bool) -> dict[str, str]:
    """Give the environment that a job inherits from this process."""
    names = os.environ if inherit else [name for name in _BASELINE if name in os.environ]
    kept = {name: os.environ[name] for name in names if not name.startswith(_NOT_INHERITED)}
    if "CLUSTERJOBS_NESTED" in os.environ:
        kept["CLUSTERJOBS_NESTED"] = os.environ["CLUSTERJOBS_NESTED"]
    return kept


def describe_command(argv: Sequence[str]) -> str:
    """Write a command for people."""
    return argv[2] if tuple(argv[:2]) == ("/bin/bash", "-c") else shlex.join(argv)
