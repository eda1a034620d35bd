"""Hosts without a scheduler, reached over SSH: on each, a scheduler in miniature for as long as the run lasts.

The scheduler is the one of the local backend (``node/local_server.py``), there. It and its jobs end with the run, or
``linger`` after it was last heard of, whatever became of it: nothing is left on a host.
"""

from __future__ import annotations

import atexit
import base64
import itertools
import json
import os
import re
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pytest_clusterjobs.backends import direct
from pytest_clusterjobs.backends.base import (
    Backend,
    BackendInfo,
    BackendSettings,
    Capability,
    Expectation,
    QueuedJob,
    Submission,
    Submitted,
)
from pytest_clusterjobs.backends.batch import SCRIPT
from pytest_clusterjobs.backends.ssh_link import HostLink, LinkOptions, Package
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    ClusterJobsError,
    ConfigError,
    ConnectionLost,
    SpecError,
    SubmitError,
)
from pytest_clusterjobs.core.naming import nearest, slug
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import JobStatus
from pytest_clusterjobs.core.units import parse_duration
from pytest_clusterjobs.transports.base import Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

#: Files of jobs go into the message itself while they have no more bytes together; else they are copied before it.
_INLINE_BYTES = 256 * 1024
#: Seconds after which a host that could not be reached is tried again, while there are others.
_TRY_AGAIN_S = 30.0
_LINGER = "60"
#: A job's order, and those of its parts that are pickles.
_ORDER, _PARTS = "order.json", frozenset({"function", "arguments"})
_SHORTEST_LINGER_S = 1.0


class SshBackend(Backend):
    """Jobs as processes on other hosts, one or several, each with slots.

    A slot is a core; all of the user's runs on a host share them. ``time`` and ``memory`` are enforced. A job sees the
    environment of a login by ssh, and none of this machine's files.

    ``partition``, ``account``, ``qos``, ``constraint``, ``extra_args`` and ``extra_directives`` have no effect, as on
    the local backend. Needed on a host: Linux, Python 3.9 or newer, a POSIX shell, and tar.

    Options: ``slots`` (``4``, or ``node1=4 node2=8``; all cores by default) and ``linger`` (60 seconds by default).

    Raises:
        ConfigError: An option has no sense.
    """

    name: ClassVar[str] = "ssh"
    capabilities: ClassVar[frozenset[Capability]] = direct.CAPABILITIES
    has_push: ClassVar[bool] = True
    shares_files: ClassVar[bool] = False
    option_names: ClassVar[frozenset[str]] = frozenset({"slots", "linger"})
    host_variable: ClassVar[str | None] = "CLUSTERJOBS_SSH_HOST"

    def __init__(self, transport: Transport, settings: BackendSettings) -> None:
        super().__init__(transport, settings)
        self._ways = {way.host: way for way in settings.ways}
        self._slots = parse_slots(settings.options.get("slots", ""), tuple(self._ways))
        self._linger_s = parse_linger(settings.options.get("linger", _LINGER))
        self._run_name = settings.run_name or f"cj-{secrets.token_hex(4)}"
        self._token, self._numbers = secrets.token_hex(4), itertools.count(1)
        self._jobs = direct.JobTable()
        self._link_of: dict[str, HostLink] = {}  # by job
        self._place_of: dict[str, tuple[str, str]] = {}  # by job: the run's directory here, and the job's in it
        self._links: dict[str, HostLink] = {}
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def check(self) -> BackendInfo:
        """Connect to every host. One that answers is enough; the others are in the detail.

        Raises:
            BackendUnavailable: No host is named, or none can be used.
            ConnectionLost: No host can be reached now.
        """
        links = self._usable_links()
        facts = [link.facts or {} for link in links]
        down = [link for link in self._links.values() if link not in links]
        told = [f"{link.host}: {link.slots} slots{_other_python(link)}" for link in links]
        return BackendInfo(
            version=f"ssh ({facts[0]['system']}, Python {facts[0]['python']})",
            nodes=len(links),
            cores_per_node=max(link.slots for link in links),
            gpus=0,
            array_limit=direct.ARRAY_LIMIT,
            detail="; ".join([*told, *(f"{link.host} cannot be used: {_why(link)}" for link in down)]),
        )

    def submit(self, submission: Submission) -> Submitted:
        """Queue a job or an array, spread over the hosts. Blocks for the first connection, and for large files.

        Raises:
            SubmitError: It asks for more than a host has.
            BackendUnavailable: No host can be used.
            ConnectionLost: No host can be reached now.
            StoreError: A host cannot take the files.
        """
        links = self._usable_links()
        fitting = [link for link in links if self._fits(submission, link)]
        if not fitting:
            self._refuse(submission, links)
        base, count = f"{self._token}.{next(self._numbers)}", len(submission.directories)
        native_ids = tuple(f"{base}_{index}" for index in range(count)) if submission.is_array else (base,)
        shares = self._spread(submission, fitting)
        packages = [(link, self._pack(submission, native_ids, link, indexes, limit)) for link, indexes, limit in shares]
        self._jobs.add(native_ids, submission, sum(link.slots for link in fitting))
        root = _root(submission)
        for native_id, directory in zip(native_ids, submission.directories, strict=True):
            self._place_of[native_id] = root, os.path.relpath(directory, root)
        for link, package in packages:
            self._link_of.update(dict.fromkeys(package.alive, link))
            link.give(package)
        hosts = ",".join(link.host for link, _ in packages)
        return Submitted(native_ids, shlex.join(["ssh", hosts, submission.python, submission.runner]))

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        return self._jobs.query(name_prefix)

    def explain(self, native_id: str) -> JobStatus | None:
        return self._jobs.status(native_id)

    def expected_environment(self, native_id: str, name: str, spec: JobSpec) -> Mapping[str, Expectation]:
        ours = super().expected_environment(native_id, name, spec)
        return {**ours, "SSH_CONNECTION": Expectation(source="ssh(1), ENVIRONMENT")}

    def explain_sources(self) -> tuple[str, ...]:
        return tuple(f"the job server on {host}" for host in self._ways)

    def cancel(self, native_ids: Collection[str]) -> None:
        wanted: dict[HostLink, list[str]] = {}
        for native_id in filter(self._jobs.is_alive, native_ids):
            wanted.setdefault(self._link_of[native_id], []).append(native_id)
        for link, theirs in wanted.items():
            link.cancel(theirs)

    def array_limit(self) -> int:
        return direct.ARRAY_LIMIT

    def set_listener(self, listener: Callable[[str], None]) -> None:
        self._jobs.listener = listener

    def fetch_logs(self, native_id: str) -> None:
        if self._jobs.is_alive(native_id):
            self._link_of[native_id].fetch_logs(native_id)

    def fetch_kept(self, native_ids: Collection[str]) -> None:
        wanted: dict[tuple[HostLink, str], list[str]] = {}
        for native_id in native_ids:
            if native_id in self._place_of:
                root, directory = self._place_of[native_id]
                wanted.setdefault((self._link_of[native_id], root), []).append(directory)
        for (link, root), directories in wanted.items():
            link.fetch(directories, root)

    def read_left(self, native_id: str, directory: str, path: str) -> bytes | None:
        if native_id not in self._place_of:
            return None
        link, (_, place) = self._link_of[native_id], self._place_of[native_id]
        return link.transport.read(os.path.join(link.directory, place, path))

    def close(self) -> None:
        """End every job and what serves it, on all hosts at once, and wait for it: about 10 s at most."""
        if self._owner != os.getpid():  # a fork has no link
            return
        with self._lock:
            links, self._links = list(self._links.values()), {}
        if links:
            atexit.unregister(self.close)
        closing = [threading.Thread(target=link.close, daemon=True) for link in links]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        for way in self._ways.values():
            way.close()

    # ------------------------------------------------------------ the hosts

    def _usable_links(self) -> list[HostLink]:
        """Connect to the hosts that are not connected, all at once, and give those that can be used.

        Raises:
            BackendUnavailable: There is none, and trying again would not help.
            ConnectionLost: There is none now.
        """
        if not self._ways:
            raise BackendUnavailable(
                f"no host is named: set {self.host_variable}, with commas between several, or give a profile the key "
                "host",
                self.name,
            )
        if self._owner != os.getpid():
            raise BackendUnavailable("a fork of the process that has connected cannot submit", self.name)
        with self._lock:
            now = time.monotonic()
            has_any = any(not link.is_dead for link in self._links.values())
            for host, way in self._ways.items():
                link = self._links.get(host)
                if link is None or (link.is_dead and not (has_any and now - link.died_at < _TRY_AGAIN_S)):
                    self._links[host] = HostLink(way, self._link_options(host), self._on_word)
            links = list(self._links.values())
            atexit.unregister(self.close)
            atexit.register(self.close)
        deadline = now + 2 * self.settings.command_timeout_s  # to be let in, and to be answered
        usable = [link for link in links if link.wait_ready(max(0.0, deadline - time.monotonic()))]
        if usable:
            return usable
        errors = [link.error for link in links]
        if len(errors) == 1 and errors[0] is not None:
            raise errors[0]
        is_for_good = all(error is not None and not error.transient for error in errors)
        kind = BackendUnavailable if is_for_good else ConnectionLost
        raise kind("; ".join(f"{link.host}: {_why(link)}" for link in links), self.name)

    def _link_options(self, host: str) -> LinkOptions:
        settings, run_name = self.settings, self._run_name
        if len(self._ways) > 1:  # they may see the same home directory
            run_name = f"{run_name}.{list(self._ways).index(host)}-{slug(host)}"
        return LinkOptions(
            settings.workdir,
            run_name,
            settings.python,
            settings.command_timeout_s,
            self._slots.get(host, 0),
            self._linger_s,
        )

    @staticmethod
    def _fits(submission: Submission, link: HostLink) -> bool:
        spec, memory = submission.spec, int((link.facts or {}).get("memory_bytes", 0))
        return spec.cores <= link.slots and (spec.memory_bytes or 0) <= memory and spec.nodes == 1 and not spec.gpus

    def _refuse(self, submission: Submission, links: Sequence[HostLink]) -> None:
        largest = max(links, key=lambda link: link.slots)
        memory = int((largest.facts or {})["memory_bytes"])
        direct.refuse_impossible(submission, self.name, largest.slots, memory, "hosts that each run jobs alone")
        raise SubmitError(f"{submission.name}: no host has the cores and the memory together", self.name)

    def _spread(
        self, submission: Submission, links: Sequence[HostLink]
    ) -> list[tuple[HostLink, list[int], int | None]]:
        """Share the jobs of a submission out, each to the host that is used least then.

        Returns:
            Hosts with the numbers of their jobs, and how many of them may run at once.
        """
        limit = submission.max_concurrent
        load = {link: link.load for link in links}
        chosen = sorted(links, key=lambda link: load[link] / link.slots)[: limit or len(links)]
        shares: dict[HostLink, list[int]] = {}
        for index in range(len(submission.directories)):
            link = min(chosen, key=lambda each: (load[each] + submission.spec.cores) / each.slots)
            load[link] += submission.spec.cores
            shares.setdefault(link, []).append(index)
        each, more = divmod(limit or 0, len(shares))
        return [
            (link, indexes, each + (number < more) if limit else None)
            for number, (link, indexes) in enumerate(shares.items())
        ]

    # ------------------------------------------------------------ a host's share of a submission

    def _pack(
        self,
        submission: Submission,
        native_ids: Sequence[str],
        link: HostLink,
        indexes: Sequence[int],
        limit: int | None,
    ) -> Package:
        """Make what a host is told of its jobs; files that are too large for that are there when this returns."""
        root = _root(submission)
        here = {native_ids[index]: submission.directories[index] for index in indexes}
        files = {os.path.relpath(path, root): path for path in _files(submission, here.values())}
        keeper = ""
        if sum(map(os.path.getsize, files.values())) > _INLINE_BYTES:
            keeper = link.keeper
            link.put(root, list(files))
            files = {}
        inline = _inline(files)
        far = replace(submission, runner=os.path.join(link.directory, "node", "start.py"))
        command = None
        if direct.needs_script(submission):
            script = os.path.join(os.path.relpath(submission.directory, root), SCRIPT)
            inline[script] = base64.b64encode(direct.script(far).encode()).decode()
            command = ["bash", os.path.join(link.directory, script)]
        elif direct.read_at_start(submission.spec.env):
            command = [str((link.facts or {})["executable"]), "-u", far.runner]
        message = {
            "submit": next(iter(here)),
            "tasks": [
                (native_id, os.path.relpath(path, root), direct.own_environment(submission, native_id, path))
                for native_id, path in here.items()
            ],
            "limit": limit,
            "shape": direct.shape_of(submission, submission.spec.env, command),
            "files": inline,
        }
        return Package(message, here, keeper)

    def _on_word(self, native_id: str, word: str, code: int | None, detail: str) -> None:
        self._jobs.note(native_id, word, code, detail, self._link_of[native_id].host)


def parse_slots(text: str, hosts: Sequence[str]) -> dict[str, int]:
    """Read the option ``slots``: one number for all hosts, or ``HOST=NUMBER`` for some. Gives the numbers by host.

    Raises:
        ConfigError: It is neither, or names a host that is none of ours.
    """
    if not text.strip():
        return {}
    if re.fullmatch(r"[1-9][0-9]*", text.strip()):
        return dict.fromkeys(hosts, int(text))
    found = {}
    for word in text.split():
        host, _, number = word.rpartition("=")
        if host not in hosts or not re.fullmatch(r"[1-9][0-9]*", number):
            hint = nearest(host, hosts) if host and host not in hosts else ""
            raise ConfigError(
                f"options.slots={text!r}: {word!r} must be HOST=NUMBER with one of the hosts {', '.join(hosts)}, or "
                f"the whole one number, 1 or more{hint}"
            )
        found[host] = int(number)
    return found


def parse_linger(text: str) -> float:
    """Read the option ``linger``, a duration. Gives seconds.

    Raises:
        ConfigError: It is none, or too short to live through any trouble.
    """
    try:
        linger_s = parse_duration(text, "options.linger")
    except SpecError as error:
        raise ConfigError(str(error)) from None
    if linger_s < _SHORTEST_LINGER_S:
        raise ConfigError(f"options.linger={text!r} must be {_SHORTEST_LINGER_S:g} s or more")
    return linger_s


def _other_python(link: HostLink) -> str:
    version, here = str((link.facts or {})["python"]), "{}.{}".format(*sys.version_info)
    if version.split(".")[:2] == here.split("."):
        return ""
    return (
        f", and Python {version}: functions come from Python {here} here and need it there, which the key python names"
    )


def _why(link: HostLink) -> str:
    error: ClusterJobsError | None = link.error
    return "it did not answer in time" if error is None else str(error.args[0]).removeprefix(f"{link.host}: ")


def _root(submission: Submission) -> str:
    """Give the run's directory here."""
    return os.path.dirname(os.path.dirname(submission.runner))


def _files(submission: Submission, directories: Collection[str]) -> list[str]:
    """Give the files that jobs need: those in their own directories, and an array's common ones."""
    folders = dict.fromkeys([submission.directory, *directories])
    return [entry.path for folder in folders for entry in os.scandir(folder) if entry.is_file()]


def _inline(files: Mapping[str, str]) -> dict[str, str]:
    """Give what is in files, base64. A job's own pickles go into its order: files are slow to make on many disks."""
    contents = {name: _read(path) for name, path in files.items()}
    for name in [name for name in contents if os.path.basename(name) == _ORDER]:
        order = json.loads(contents[name])
        for part in _PARTS & order.keys():
            path = os.path.join(os.path.dirname(name), order[part]["path"])
            if path in contents:
                data = base64.b64encode(contents.pop(path)).decode()
                order[part] = {"data": data, "sha256": order[part]["sha256"]}
        contents[name] = json.dumps(order).encode()
    return {name: base64.b64encode(data).decode() for name, data in contents.items()}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
