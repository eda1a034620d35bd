"""Clean up after runs whose process is dead: cancel their jobs by token, on any backend; remove their directories."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Capability
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import ClusterJobsError
from pytest_clusterjobs.engine import ferry
from pytest_clusterjobs.engine.closing import wait_until_gone
from pytest_clusterjobs.engine.opening import backend_alone, open_backend
from pytest_clusterjobs.engine.probe import ask
from pytest_clusterjobs.engine.store import JOURNAL, RUN_FILE, Store, boot_id, process_start, remove_empty_workdir
from pytest_clusterjobs.transports.base import FarTransport, Transport
from pytest_clusterjobs.transports.local import LocalTransport


@dataclass(slots=True)
class ReapReport:
    """What was found of one run and what became of it."""

    #: The run.
    run_id: str
    #: Its directory, "" when it was named by its id alone.
    directory: str = ""
    #: "dead", or why it was left alone or not found.
    status: str = "dead"
    #: Jobs that lived and were cancelled, as ``backend:native id``.
    cancelled: list[str] = field(default_factory=list)
    #: Jobs that would not go.
    left: list[str] = field(default_factory=list)
    #: Trouble with schedulers; the directory is then kept for another try.
    problems: list[str] = field(default_factory=list)
    #: True when its directory was removed.
    is_removed: bool = False


def reap_workdir(
    workdir: str, *, keep: bool = False, kept_too: bool = False, places: Callable[[str], Place] = backend_alone
) -> list[ReapReport]:
    """Reap every dead run below a work directory; living ones are left alone and reported.

    Args:
        workdir: The directory that holds the runs' directories.
        places: Gives what the name of a backend or a profile means.
        keep: Leave the directories.
        kept_too: Also remove what runs that ended in order have kept.
    """
    transport = LocalTransport()
    reports = []
    for name in sorted(transport.list_names(workdir)):
        directory = os.path.join(workdir, name)
        data = transport.read(os.path.join(directory, RUN_FILE)) if os.path.isdir(directory) else None
        if data is None:
            continue
        try:
            facts = json.loads(data)
            report = ReapReport(name, directory, why_spared(facts) or "dead")
        except (ValueError, LookupError, TypeError, AttributeError):  # its process died while it wrote it
            reports.append(ReapReport(name, directory, f"its {RUN_FILE} cannot be read; name the run by its id"))
            continue
        reports.append(report)
        if report.status == "dead" or (kept_too and facts.get("is_closed")):
            try:
                _reap_dead(report, Store(transport, workdir, name, "main", os.getpid()), facts, places, keep=keep)
            except ClusterJobsError as error:  # others are still to be reaped
                report.problems.append(str(error))
    if not keep:
        remove_empty_workdir(transport, workdir)
    return reports


def _reap_dead(
    report: ReapReport, store: Store, facts: dict[str, Any], places: Callable[[str], Place], *, keep: bool
) -> None:
    with store.locked("owner"):
        now = store.read_json(store.run_file)
        if now != facts:
            report.status = (now and why_spared(now)) or "removed by another process"  # or taken over, by reconnect
            if now is None:
                store.transport.remove(store.root)  # with nothing in it but the lock that was made just now
            return
        for place, workers in places_of(store.transport, store.root).items():
            _reap_place(place, report, places, workers)
        if keep or report.problems or report.left:
            return
        store.mark_closed()  # nobody may take it over any more
    store.transport.remove(store.root)
    report.is_removed = True


def reap_run(run_id: str, names: Sequence[str], places: Callable[[str], Place] = backend_alone) -> ReapReport:
    """Cancel the jobs of one run by their names alone, where its directory is gone or not seen from here.

    Where no job has such a name the status says so: a run whose id is misspelt has none either.
    """
    report = ReapReport(run_id)
    for name in names:
        _reap_place(name, report, places)
    if not names:
        report.problems.append("no backend answers whose jobs outlive their run: see clusterjobs check")
    if not report.cancelled and not report.left:
        report.status = f"no job of it was found on {', '.join(names)}" if names else "not looked for"
    return report


def where_jobs_outlive() -> list[str]:
    """Give the names of the backends that answer and whose jobs outlive the process that submitted them."""
    found = []
    for name in registry.names():
        backend = open_backend(backend_alone(name), Settings())
        if Capability.DETACHED in backend.capabilities and ask(backend).is_available:
            found.append(name)
        backend.close()
    return found


def why_spared(facts: dict[str, Any]) -> str:
    """Say why a run is to be left alone, or "" when its process died without ending it."""
    if facts.get("is_closed"):
        return "ended in order; its directory holds what was kept"
    if facts["host"] != socket.gethostname():
        return f"belongs to {facts['host']}; run this there"
    started = process_start(int(facts["pid"]))
    if facts["boot_id"] == boot_id() and started is not None and started == facts["pid_started"]:
        return f"alive: process {facts['pid']}"
    return ""


def places_of(transport: Transport, directory: str) -> dict[str, list[str]]:
    """Give the places that a run used, by name, each with the workers that used it."""
    found: dict[str, list[str]] = {}
    for worker in transport.list_names(directory):
        data = transport.read(os.path.join(directory, worker, JOURNAL)) if worker not in (RUN_FILE,) else None
        for line in (data or b"").decode(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # cut off by the crash
            if entry.get("event") == "intent" and worker not in found.setdefault(str(entry["backend"]), []):
                found[str(entry["backend"])].append(worker)
    return found


def _reap_place(
    name: str, report: ReapReport, places: Callable[[str], Place], workers: Sequence[str] = ("main",)
) -> None:
    try:
        place = places(name)
        backend = open_backend(place, Settings())
        try:
            if Capability.DETACHED not in backend.capabilities:
                return  # its jobs died with the run
            prefix = f"cj-{report.run_id}-"
            living = [key for key, queued in backend.query(prefix).items() if not queued.status.state.is_terminal]
            report.cancelled += [f"{name}:{native_id}" for native_id in living]
            backend.cancel(living)
            report.left += wait_until_gone(backend, report.problems, prefix)
            if isinstance(backend.transport, FarTransport):
                ferry.remove_all(backend.transport, place, report.run_id, workers, backend.settings.command_timeout_s)
        finally:
            backend.close()
            backend.transport.close()
    except ClusterJobsError as error:
        report.problems.append(str(error))
