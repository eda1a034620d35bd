"""The logs of jobs' containers: followed while they run, read once at their ends.

Short jobs are not followed: what they have to say comes with their pods' status. A job whose result is large sends it
by its log until somebody has read it, see ``node/pod.py``.
"""

from __future__ import annotations

import http
import logging
import threading
import time
from collections.abc import Callable, Collection

from pytest_clusterjobs.backends.kubernetes_api import Api, ApiError
from pytest_clusterjobs.backends.kubernetes_entry import Entry
from pytest_clusterjobs.backends.kubernetes_files import Summary
from pytest_clusterjobs.backends.kubernetes_manifest import CONTAINER
from pytest_clusterjobs.core.errors import BackendError, ConnectionLost

_log = logging.getLogger(__name__)

_FOLLOW_AFTER_S, _FOLLOW_AGAIN_S = 3.0, 10.0
# So many at a time, each by a thread; of more, those that have waited longest come first.
_FOLLOWERS = 32
_SILENCE_S = 60.0
_RETRY_S = 2.0
_READ_S = 30.0


class Logs:
    """Reads logs. Any thread may call any method.

    Args:
        api: The server.
        namespace: Where the pods are.
        on_bundle: Called when all that a job sends has come by its log.
    """

    def __init__(self, api: Api, namespace: str, on_bundle: Callable[[Entry, bytes, Summary], None]) -> None:
        self._api, self._namespace, self._on_bundle = api, namespace, on_bundle
        self._stop = threading.Event()

    def stop(self, entries: Collection[Entry]) -> None:
        """Read no more."""
        self._stop.set()
        for entry in entries:
            self.leave(entry)

    def leave(self, entry: Entry) -> None:
        """Stop following a job."""
        if entry.stream is not None:
            entry.stream.stop()

    def read(self, entry: Entry, patience_s: float) -> None:
        """Take in a container's log; tries for ``patience_s`` seconds while the server does not answer."""
        deadline = time.monotonic() + patience_s
        while entry.pod and not self._stop.is_set():
            try:
                data = self._api.read("GET", self._path(entry), query=_QUERY, timeout_s=min(patience_s, _READ_S))
            except ApiError as error:
                if error.status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                    return  # no such pod, or no container of it that has ever run
            except ConnectionLost:
                pass
            else:
                for line in data.split(b"\n"):
                    entry.inbox.take(line)
                return
            if time.monotonic() + _RETRY_S > deadline:
                return
            self._stop.wait(_RETRY_S)

    def follow_some(self, entries: Collection[Entry], now: float) -> None:
        """Start to follow jobs that have run for a while, as many as threads are free."""
        free = _FOLLOWERS - sum(entry.is_followed for entry in entries)
        waiting = [
            entry
            for entry in entries
            if entry.running_since is not None
            and not entry.is_followed
            and not entry.is_shared
            and not entry.is_ending
            and now - entry.running_since >= _FOLLOW_AFTER_S
            and now - entry.followed_at >= _FOLLOW_AGAIN_S
        ]
        for entry in sorted(waiting, key=lambda each: each.followed_at)[: max(0, free)]:
            entry.is_followed = True
            name = f"clusterjobs-kubernetes-log-{entry.native_id}"
            threading.Thread(target=self._follow, args=(entry,), name=name, daemon=True).start()

    def _follow(self, entry: Entry) -> None:
        query = {**_QUERY, "follow": "true"}
        if entry.followed_at > 0:  # only what is new, and a little more: a line that comes twice is known by its number
            query["sinceSeconds"] = str(int(time.monotonic() - entry.followed_at) + 10)
        entry.followed_at = time.monotonic()
        try:
            entry.stream = self._api.stream(self._path(entry), query, _SILENCE_S)
            for line in entry.stream.lines():
                entry.inbox.take(line)
                if entry.inbox.summary is not None or entry.is_settled or self._stop.is_set():
                    entry.stream.stop()
            if entry.inbox.summary is not None:
                self._fetch(entry, entry.inbox.summary)
        except BackendError:
            return  # it is tried again; the watch tells what has become of the pod
        except Exception:  # the edge of a thread
            _log.exception("kubernetes: following %s", entry.native_id)
        finally:
            entry.is_followed = False

    def _fetch(self, entry: Entry, summary: Summary) -> None:
        """Read the log again and again until all that a job sends has come.

        Not by following it: older kubelets lose their way when they rotate a log that is followed.
        """
        while not entry.is_settled and not self._stop.is_set():
            self.read(entry, _READ_S)
            bundle = entry.inbox.bundle(summary)
            if bundle is not None:
                self._on_bundle(entry, bundle, summary)
                return
            self._stop.wait(_RETRY_S)

    def _path(self, entry: Entry) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods/{entry.pod}/log"


_QUERY = {"container": CONTAINER}
