"""Users' callbacks, called one after the other in a thread of their own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable
from queue import SimpleQueue
from typing import Any

from pytest_clusterjobs.engine.job import Callback, Job

log = logging.getLogger("pytest_clusterjobs")


class Callbacks:
    """A queue of callbacks and the thread that calls them, started by the first."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Callback, Job[Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, callback: Callback, job: Job[Any]) -> None:
        """Have a callback called soon."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="clusterjobs-callbacks", daemon=True)
                self._thread.start()
        self._queue.put((callback, job))

    def stop(self) -> None:
        """Call those that are waiting, then stop; waits at most ten seconds."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=10)

    def _loop(self) -> None:
        while (item := self._queue.get()) is not None:
            callback, job = item
            try:
                made = callback(job)
                if isinstance(made, Awaitable):
                    asyncio.run(_await(made))
            except Exception:  # the edge of the thread: one callback must not stop the others
                log.exception("clusterjobs: a callback of %s raised", job.record.name)


async def _await(awaitable: Awaitable[object]) -> None:
    await awaitable
