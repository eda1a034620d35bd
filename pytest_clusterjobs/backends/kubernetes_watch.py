"""One watch for all jobs of a process: a thread that never gives up, and loses nothing it was not told."""

from __future__ import annotations

import http
import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pytest_clusterjobs.backends.kubernetes_api import Api, ApiError, Stream
from pytest_clusterjobs.core.errors import BackendError

_log = logging.getLogger(__name__)

#: Seconds after which the server ends a watch that is then resumed, and seconds of silence after which it is dead.
_WATCH_S, _SILENCE_S = 60, 75
_JOIN_S = 2.0
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0

Pod = Mapping[str, Any]


class PodWatch:
    """Follows the pods that have a label.

    A list gives the state and its version; a watch from that version on gives each change once. A connection that
    breaks is resumed from the last version seen; a version too old for the server (410) means a new list (Kubernetes'
    documentation, "Efficient detection of changes").

    Args:
        api: The server.
        namespace: Where the pods are.
        selector: Which pods, as a label selector.
        on_pod: Called on the watch's thread for each pod as it is now; the second argument is True when it is gone.
        on_list: Called with the uids of all pods there are after a list, and with what ``before_list`` gave.
        before_list: Called before a list is asked for.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        selector: str,
        on_pod: Callable[[Pod, bool], None],
        before_list: Callable[[], Any],
        on_list: Callable[[set[str], Any], None],
    ) -> None:
        self._api, self._path = api, f"/api/v1/namespaces/{namespace}/pods"
        self._selector = selector
        self._on_pod, self._before_list, self._on_list = on_pod, before_list, on_list
        self._stop = threading.Event()
        self._version = ""
        self._failures = 0
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._run, name="clusterjobs-kubernetes-watch", daemon=True)
        #: The last error while the server does not answer, or "".
        self.trouble = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the end: a moment, or for one request to time out."""
        self._stop.set()
        if self._stream is not None:
            self._stream.stop()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._version:
                    self._list()
                self._follow()
            except ApiError as error:
                if error.status == http.HTTPStatus.GONE:
                    self._version = ""
                    continue
                self._pause(error)
            except BackendError as error:
                self._pause(error)
            except Exception:  # the edge of the thread that all jobs depend on
                _log.exception("the watch goes on after")
                self._version = ""
                self._stop.wait(_MAX_PAUSE_S)

    def _pause(self, error: BackendError) -> None:
        self.trouble = str(error.args[0])
        self._stop.wait(min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._failures, 10)))
        self._failures += 1

    def _list(self) -> None:
        before = self._before_list()
        found = self._api.request("GET", self._path, query={"labelSelector": self._selector})
        self._version = str(found["metadata"]["resourceVersion"])
        self._answered()
        for pod in found["items"]:
            self._on_pod(pod, False)
        self._on_list({pod["metadata"]["uid"] for pod in found["items"]}, before)

    def _follow(self) -> None:
        query = {
            "labelSelector": self._selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH_S),
        }
        self._stream = self._api.stream(self._path, query, _SILENCE_S)
        if self._stop.is_set():
            self._stream.stop()
        for line in self._stream.lines():
            event = json.loads(line)
            kind, thing = event["type"], event["object"]
            if kind == "ERROR":
                raise ApiError(str(thing.get("message", "")), int(thing.get("code", 0)), str(thing.get("reason", "")))
            self._answered()
            self._version = str(thing["metadata"]["resourceVersion"])
            if kind != "BOOKMARK":
                self._on_pod(thing, kind == "DELETED")
        self._failures = 0

    def _answered(self) -> None:
        self._failures, self.trouble = 0, ""
