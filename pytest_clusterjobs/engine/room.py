"""Room for jobs: the limit on unfinished jobs of a run, all its workers together."""

from __future__ import annotations

import os

from pytest_clusterjobs.engine.store import Store


class Room:
    """This worker's share of the limit. Each worker's count is a file that all of them see, changed under one lock."""

    def __init__(self, store: Store, limit: int | None) -> None:
        self._store, self._limit = store, limit
        self._name = f"room-{store.worker}.json"
        self._taken = 0

    def take(self, count: int) -> bool:
        """Take room for so many jobs; False when there is none now."""
        if self._limit is None:
            return True
        with self._store.locked("room"):
            shared = os.path.join(self._store.root, "shared")
            names = [name for name in self._store.transport.list_names(shared) if name.startswith("room-")]
            others = sum(self._store.read_shared(name) or 0 for name in names if name != self._name)
            if others + self._taken + count > self._limit:
                return False
            self._taken += count
            self._store.write_shared(self._name, self._taken)
        return True

    def give_back(self) -> bool:
        """Give back the room of one job; tells whether anybody may be waiting for it."""
        if self._limit is None or not self._taken:
            return False
        with self._store.locked("room"):
            self._taken -= 1
            self._store.write_shared(self._name, self._taken)
        return True

    @staticmethod
    def forget(store: Store, worker: str) -> None:
        """Give back all that a dead worker held."""
        store.transport.remove(os.path.join(store.root, "shared", f"room-{worker}.json"))
