"""The jobs of one process on a Kubernetes cluster, from their pods' first sign to their files here.

Everything is told by one watch. A job that has ended is settled once: its files are written, then its state changes,
then it is deleted on the server. What needs requests of its own is done by a few threads, never by the watch's.
"""

from __future__ import annotations

import http
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pytest_clusterjobs.backends.kubernetes_api import Api, ApiError
from pytest_clusterjobs.backends.kubernetes_entry import Entry
from pytest_clusterjobs.backends.kubernetes_files import Returned, Summary, read_shared, read_summary, unpack
from pytest_clusterjobs.backends.kubernetes_logs import Logs
from pytest_clusterjobs.backends.kubernetes_manifest import JOB_LABEL, SESSION_LABEL
from pytest_clusterjobs.backends.kubernetes_status import (
    PodReading,
    by_exit_code,
    fits_a_node,
    read_job,
    read_pod,
)
from pytest_clusterjobs.backends.kubernetes_watch import PodWatch
from pytest_clusterjobs.core.errors import BackendError, ConnectionLost, StoreError
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus

_log = logging.getLogger(__name__)

_THREADS = 8
_TICK_S = 0.25
# How long a pod may be kept from starting by something that may pass, as a registry that does not answer.
_START_TROUBLE_S = 10.0
_NO_POD_S, _ASK_AGAIN_S = 3.0, 10.0
_NODES_S = 10.0
_SWEEP_S = 30.0
# How long a node may be silent, after its cluster has noticed, until its job counts as lost with it. Pods are taken
# from such nodes earlier (`kubernetes_manifest`), but not where all nodes of a zone are silent.
_SILENT_S = 45.0
_RETRY_S = 2.0
# How long the server may be out before what a job has printed, or its result, is given up.
_OUTAGE_S = 900.0
_LAST_WORDS_S = 5.0
# How long a file that a pod wrote to a shared volume may take to be seen here.
_VISIBLE_S = 15.0


class Tracker:
    """Follows jobs and brings them to their ends. Any thread may call any method.

    Args:
        api: The server.
        namespace: Where the jobs are.
        session: The value of their session label.
        listener: Called with a native id whenever a job has changed, from any thread.
    """

    def __init__(self, api: Api, namespace: str, session: str, listener: Callable[[str], None]) -> None:
        self._api, self._namespace, self._listener = api, namespace, listener
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._pool = ThreadPoolExecutor(_THREADS, "clusterjobs-kubernetes")
        self._to_delete: dict[str, float] = {}
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._swept = time.monotonic()
        self._asked_events = self._asked_nodes = float("-inf")
        selector = f"{SESSION_LABEL}={session}"
        self._selector = selector
        self._watch = PodWatch(api, namespace, selector, self._on_pod, self._pods_now, self._on_list)
        self._logs = Logs(api, namespace, self._by_stream)
        self._keeper = threading.Thread(target=self._keep, name="clusterjobs-kubernetes-keeper", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._watch.start()
        self._keeper.start()

    @property
    def trouble(self) -> str:
        """The last error while the server does not answer, or ""."""
        return self._watch.trouble

    def add(self, entry: Entry) -> None:
        """Take a job in, before it is sent."""
        with self._lock:
            self._entries[entry.native_id] = entry
        self._wake.set()

    def accepted(self, entry: Entry) -> None:
        """Take note that the server has a job."""
        with self._lock:
            entry.submitted, entry.is_accepted = time.monotonic(), True

    def forget(self, entry: Entry) -> None:
        """Drop a job that the server refused."""
        with self._lock:
            self._entries.pop(entry.native_id, None)

    def status(self, native_id: str) -> JobStatus | None:
        """Give what is known of a job; None for one that is not this process's."""
        with self._lock:
            entry = self._entries.get(native_id)
            return None if entry is None else entry.status

    def has_unfinished(self, besides: Entry) -> bool:
        """Tell whether jobs of this process, besides one, are on the server and will leave it."""
        with self._lock:
            return any(
                each.is_accepted and not each.is_settled for each in self._entries.values() if each is not besides
            )

    def has_pods(self, besides: Entry) -> bool:
        """Tell whether jobs of this process, besides one, have pods, which will make room."""
        return any(each.pod for each in self._unsettled() if each is not besides)

    def do(self, task: Callable[..., None], *args: Any) -> None:
        """Have something done by another thread; its errors are logged."""
        self._pool.submit(self._guarded, task, *args)

    def _guarded(self, task: Callable[..., None], *args: Any) -> None:
        try:
            task(*args)
        except Exception:  # the edge of a thread
            _log.exception("kubernetes: %s failed", task.__name__)

    def cancel(self, native_id: str) -> bool:
        """Cancel a job of this process, by and by; False when it is none. One that has ended is only deleted."""
        with self._lock:
            entry = self._entries.get(native_id)
            if entry is None:
                return False
            if entry.is_settled:
                self.do(self._delete, native_id)
            else:
                self._end(entry, self._cancel)
        return True

    def close(self, timeout_s: float) -> None:
        """Stop, after everything that has to be told to the server was told, for ``timeout_s`` seconds at most."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and (self._to_delete or any(e.is_ending for e in self._unsettled())):
            self._stop.wait(0.02)
        self._stop.set()
        self._wake.set()
        self._logs.stop(list(self._entries.values()))
        self._watch.stop()
        self._pool.shutdown(wait=True)
        if self._keeper.is_alive():
            self._keeper.join(timeout_s)

    def _unsettled(self) -> list[Entry]:
        with self._lock:
            return [entry for entry in self._entries.values() if not entry.is_settled]

    # ------------------------------------------------------------ what the watch tells; on its thread

    def _on_pod(self, pod: Mapping[str, Any], is_gone: bool) -> None:
        native_id = pod["metadata"].get("labels", {}).get(JOB_LABEL, "")
        reading = read_pod(pod)
        with self._lock:
            entry = self._entries.get(native_id)
            if entry is None or entry.is_settled:
                return
            if entry.pod_uid not in ("", reading.uid):
                return  # the Job has made another one; the first one's end decides
            entry.pod, entry.pod_uid, entry.given = reading.pod, reading.uid, reading.status.resources
            entry.is_accepted = True  # also where the reply to its submission was lost
            if reading.is_node_silent:
                entry.silent_since = entry.silent_since or time.monotonic()
            elif not (is_gone or reading.is_deleted):
                entry.silent_since = None
            if reading.status.state.is_terminal:
                self._end(entry, self._collect, reading)
            elif is_gone or reading.is_deleted:
                self._end(entry, self._taken_away, reading)
            else:
                self._note(entry, reading)

    def _note(self, entry: Entry, reading: PodReading) -> None:
        now = time.monotonic()
        entry.is_unschedulable = reading.is_unschedulable
        if reading.status.state is JobState.RUNNING:
            entry.running_since = entry.running_since or now
        entry.trouble_since = (entry.trouble_since or now) if reading.cannot_start else None
        if reading.cannot_start and not reading.may_pass:
            self._end(entry, self._give_up, reading.status)
        if reading.is_node_silent:
            detail = f"node {reading.status.nodes} does not answer"
            reading = replace(reading, status=replace(reading.status, detail=detail))
        self._change(entry, reading.status)

    def _pods_now(self) -> dict[str, Entry]:
        with self._lock:
            return {entry.pod_uid: entry for entry in self._unsettled() if entry.pod_uid}

    def _on_list(self, uids: set[str], known: dict[str, Entry]) -> None:
        """End the jobs whose pods went while nobody watched."""
        for uid, entry in known.items():
            with self._lock:
                if uid not in uids and not entry.is_settled:
                    gone = PodReading(entry.pod, uid, entry.status, is_deleted=True)
                    self._end(entry, self._taken_away, gone)

    def _change(self, entry: Entry, status: JobStatus) -> None:
        if entry.status != status and not entry.is_ending:
            entry.status = status
            self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        try:
            self._listener(entry.native_id)
        except Exception:  # a listener's trouble must not end a thread that all jobs depend on
            _log.exception("the listener failed for job %s", entry.native_id)

    # ------------------------------------------------------------ ends; on the pool's threads

    def _end(self, entry: Entry, how: Callable[..., None], *args: Any) -> None:
        """Have one thread work on a job's end; the first one to call this decides how, but a cancel may come after."""
        with self._lock:
            if not entry.is_settled and (not entry.is_ending or how == self._cancel):
                entry.is_ending = True
                self.do(self._finish, entry, how, *args)

    def _finish(self, entry: Entry, how: Callable[..., None], *args: Any) -> None:
        try:
            how(entry, *args)
        except Exception as error:  # a job must end, whatever its pod has sent
            _log.exception("kubernetes: the end of %s", entry.native_id)
            detail = f"its end could not be taken in: {error!r}"
            self._settle(entry, JobStatus(JobState.LOST, entry.status.native_word, ExitReason.LOST, detail), {})

    def _collect(self, entry: Entry, reading: PodReading) -> None:
        """Settle a job whose container has ended by itself, or was ended by its node."""
        if (shared := read_shared(reading.message)) is not None:
            returned, has_result = shared
            if has_result:
                entry.inbox.wait_for_result(_VISIBLE_S)
            self._settle(entry, _by_facts(returned, reading.status), {})
            return
        summary = read_summary(reading.message) if reading.message else None
        if summary is None:
            self._logs.read(entry, _OUTAGE_S)
            summary = entry.inbox.summary
        if summary is None:
            self._settle(entry, reading.status, {})
            return
        bundle = entry.inbox.bundle(summary)
        if bundle is None:
            self._logs.read(entry, _OUTAGE_S)
            bundle = entry.inbox.bundle(summary)
        if bundle is None:
            detail = f"its node sent {entry.inbox.missing(summary)} of {summary.parts} parts of its result no more"
            self._settle(entry, replace(reading.status, state=JobState.LOST, reason=ExitReason.LOST, detail=detail), {})
            return
        self._settle_with(entry, bundle, summary, reading.status)

    def _by_stream(self, entry: Entry, bundle: bytes, summary: Summary) -> None:
        """Settle a job whose result came by its log while its container still runs, sending it."""
        self._settle_with(entry, bundle, summary, replace(entry.status, native_word="Terminated"))

    def _settle_with(self, entry: Entry, bundle: bytes, summary: Summary, status: JobStatus) -> None:
        try:
            returned = unpack(bundle, summary)
        except StoreError as error:
            lost = replace(status, state=JobState.LOST, reason=ExitReason.LOST, detail=str(error))
            self._settle(entry, lost, {})
            return
        self._settle(entry, _by_facts(returned, status), returned.files)

    def _taken_away(self, entry: Entry, reading: PodReading) -> None:
        """Settle a job whose pod was deleted, by whomever. At once: the Job would make another pod."""
        self._logs.read(entry, _LAST_WORDS_S)
        nodes = reading.status.nodes
        status = JobStatus(JobState.CANCELLED, "Deleted", ExitReason.CANCELLED_OUTSIDE, "its pod or Job was deleted")
        if entry.silent_since is not None:
            detail = f"node {nodes} does not answer"
            status = JobStatus(JobState.FAILED, "NodeLost", ExitReason.NODE_FAILURE, detail)
        status = reading.disruption or status
        self._settle(entry, replace(status, nodes=nodes), {})

    def _give_up(self, entry: Entry, status: JobStatus) -> None:
        self._settle(entry, replace(status, state=JobState.FAILED, reason=ExitReason.LAUNCH_FAILURE), {})

    def _never_starts(self, entry: Entry, detail: str) -> None:
        self._settle(entry, JobStatus(JobState.CANCELLED, "Unschedulable", ExitReason.NEVER_STARTS, detail), {})

    def _cancel(self, entry: Entry) -> None:
        if entry.running_since is not None:
            self._logs.read(entry, _LAST_WORDS_S)
        status = replace(entry.status, state=JobState.CANCELLED, reason=ExitReason.CANCELLED, native_word="Deleted")
        self._settle(entry, replace(status, detail=""), {})

    def _settle(self, entry: Entry, status: JobStatus, files: Mapping[str, bytes]) -> None:
        with self._lock:
            if entry.is_settled:
                return
            entry.is_settled = True
        try:
            entry.inbox.close(files)
        except (StoreError, OSError) as error:
            status = replace(
                status, state=JobState.LOST, reason=ExitReason.LOST, detail=f"cannot be kept here: {error}"
            )
        with self._lock:
            self._to_delete[entry.native_id] = time.monotonic() + _RETRY_S
            entry.status = replace(status, nodes=status.nodes or entry.status.nodes, resources=entry.given)
        self._tell(entry)
        self._logs.leave(entry)
        self._delete(entry.native_id)

    def _delete(self, native_id: str) -> None:
        """Delete a job with its pod and Secrets; tried again later where the server does not answer."""
        path = f"/apis/batch/v1/namespaces/{self._namespace}/jobs/{native_id}"
        try:
            self._api.request("DELETE", path, body={"propagationPolicy": "Background"})
        except ConnectionLost:
            self._to_delete[native_id] = time.monotonic() + _RETRY_S
            return
        except ApiError as error:
            if error.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
                self._to_delete[native_id] = time.monotonic() + _RETRY_S
                return
            if error.status != http.HTTPStatus.NOT_FOUND:
                _log.warning("%s", error.args[0])
        self._to_delete.pop(native_id, None)

    # ------------------------------------------------------------ what nobody tells; on the keeper's thread

    def _keep(self) -> None:
        while not self._stop.is_set():
            busy = bool(self._to_delete) or bool(self._unsettled())
            self._wake.wait(_TICK_S if busy else None)
            self._wake.clear()
            if busy and not self._stop.is_set():
                self._guarded(self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        for native_id, due in list(self._to_delete.items()):
            if now >= due:
                self._to_delete[native_id] = now + 30.0
                self.do(self._delete, native_id)
        self._logs.follow_some(self._unsettled(), now)
        for entry in self._unsettled():
            if entry.is_ending or not entry.is_accepted:
                continue
            if entry.trouble_since is not None and now - entry.trouble_since > _START_TROUBLE_S:
                self._end(entry, self._give_up, entry.status)
            elif entry.silent_since is not None and now - entry.silent_since > _SILENT_S and not self.trouble:
                entry.silent_since = now
                self.do(self._ask_again_after_silence, entry)
            elif entry.is_unschedulable and now - self._asked_nodes > _NODES_S:
                self._asked_nodes = now
                self.do(self._ask_nodes)
            elif not entry.pod and now - entry.submitted > _NO_POD_S and now - self._asked_events > _ASK_AGAIN_S:
                self._asked_events = now
                self.do(self._ask_why_no_pod)
        if now - self._swept > _SWEEP_S:
            self._swept = now
            self.do(self._sweep)

    def _ask_again_after_silence(self, entry: Entry) -> None:
        """End a job whose node is silent still: what was told before an outage of the server says nothing of it."""
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        try:
            found = self._api.request("GET", path, query={"labelSelector": f"{JOB_LABEL}={entry.native_id}"})["items"]
        except BackendError:
            return
        for reading in map(read_pod, found):
            if reading.uid == entry.pod_uid and reading.is_node_silent:
                self._end(entry, self._taken_away, reading)

    def _ask_nodes(self) -> None:
        """End the jobs that ask for more cores than any node has. Who may not see the nodes lets them wait."""
        try:
            nodes = self._api.request("GET", "/api/v1/nodes")["items"]
        except BackendError:
            return
        for entry in self._unsettled():
            if nodes and entry.is_unschedulable and not fits_a_node(nodes, entry.cores):
                self._end(entry, self._never_starts, f"no node has cores={entry.cores}; {entry.status.detail}")

    def _ask_why_no_pod(self) -> None:
        """Learn from the events why Jobs make no pods: a quota, or a policy of the namespace."""
        path = f"/api/v1/namespaces/{self._namespace}/events"
        try:
            found = self._api.request(
                "GET", path, query={"fieldSelector": "involvedObject.kind=Job,reason=FailedCreate"}
            )
        except BackendError:
            return
        said = {each["involvedObject"]["name"]: str(each.get("message", "")) for each in found["items"]}
        for entry in self._unsettled():
            if entry.pod or entry.native_id not in said:
                continue
            why = said[entry.native_id]
            status = JobStatus(JobState.PENDING, "FailedCreate", detail=f"FailedCreate: {why}")
            with self._lock:
                self._change(entry, status)
            if not ("exceeded quota" in why and self.has_pods(besides=entry)):
                self._end(entry, self._give_up, status)

    def _sweep(self) -> None:
        """Look for jobs that the server has no more and whose pods nobody has seen: the watch cannot tell of them."""
        before = [entry for entry in self._unsettled() if entry.is_accepted and not entry.pod]
        if not before:
            return
        path = f"/apis/batch/v1/namespaces/{self._namespace}/jobs"
        try:
            found = self._api.request("GET", path, query={"labelSelector": self._selector})["items"]
        except BackendError:
            return
        readings = {each.native_id: each for each in map(read_job, found)}
        for entry in before:
            reading = readings.get(entry.native_id)
            if entry.pod or (reading is not None and not reading.status.state.is_terminal):
                continue
            self._end(entry, self._taken_away, PodReading("", "", entry.status, is_deleted=True))


def _by_facts(returned: Returned, status: JobStatus) -> JobStatus:
    """Judge by what the job sent home, unless its node ended it."""
    if status.reason in (ExitReason.TIMEOUT, ExitReason.NODE_FAILURE, ExitReason.PREEMPTED):
        return status
    code, signal = returned.exit_code, returned.signal
    if returned.was_out_of_memory and code != 0:
        return replace(status, state=JobState.FAILED, reason=ExitReason.OUT_OF_MEMORY, exit_code=code, signal=signal)
    own = by_exit_code(status.native_word, code, signal)
    return replace(own, nodes=status.nodes)
