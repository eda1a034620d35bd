"""pytest-xdist: who is who, and what controller and workers tell each other. The only module that knows of it.

The controller makes the run's id and hands it to the workers; they submit, it never does. What a worker knows at its
end comes back with its output; what a killed worker left is cancelled by the controller, from that worker's journal.
Everything here works where xdist is absent or switched off: then nobody is a worker and no hook below is called.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_clusterjobs.plugin.session import ClusterSession

_KEY = "clusterjobs"


def worker_of(config: pytest.Config) -> tuple[str, str] | None:
    """Give the run's id and the worker's name in a worker; None elsewhere."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    if workerinput is None:
        return None
    # Without our part the controller does not have this plugin: the worker's run is its own.
    told = workerinput.get(_KEY) or {"run_id": os.urandom(4).hex()}
    return told["run_id"], workerinput["workerid"]


def is_worker(config: pytest.Config) -> bool:
    """Tell whether this process is a worker: somebody else prints and reports."""
    return hasattr(config, "workerinput")


def is_controller(config: pytest.Config) -> bool:
    """Tell whether this process only hands tests to workers. Known once pytest is configured."""
    return config.pluginmanager.has_plugin("dsession")


def group_tests(config: pytest.Config) -> bool:
    """Have tests of one group go to one worker, where tests are handed out one by one; nothing without workers.

    Returns:
        True in a worker: it must say of each test which group it belongs to.
    """
    if is_worker(config):
        config.option.loadgroup = True
    elif is_controller(config) and config.option.dist == "load":
        config.option.dist = "loadgroup"
    return is_worker(config)


def serialize(item: pytest.Item, place: str) -> None:
    """Have a test run on the worker of all tests of a place, unless it has a group of its own."""
    if item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(f"clusterjobs-{place}"))


def id_without_group(config: pytest.Config, nodeid: str) -> str:
    """Give a test's id as the command line takes it: with ``--dist loadgroup`` workers add ``@group`` to it."""
    # In a worker xdist keeps what was asked for in an option of its own.
    if config.getoption("dist", "no") != "loadgroup" and not getattr(config.option, "loadgroup", False):
        return nodeid
    head, bracket, tail = nodeid.rpartition("]")
    return head + bracket + tail.partition("@")[0]


def send_home(config: pytest.Config, output: dict[str, Any]) -> None:
    """Give a worker's last words to the controller. Only JSON types travel."""
    config.workeroutput[_KEY] = output  # type: ignore[attr-defined]  # xdist sets it in workers


class Controller:
    """The hooks that xdist calls in the controller."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session
        #: Last words of the workers that ended in order.
        self.outputs: list[dict[str, Any]] = []
        self._started: set[str] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker which run it belongs to."""
        node.workerinput[_KEY] = {"run_id": self._session.run_id}
        self._started.add(node.gateway.id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Take over what a worker says at its end; cancel what one that was killed has left."""
        output = getattr(node, "workeroutput", None) or {}
        if node.gateway.id not in self._started:
            return  # xdist calls this twice for a worker that was interrupted
        if _KEY in output:
            self.outputs.append(output[_KEY])
            self._started.discard(node.gateway.id)
        elif error:
            self._adopt(node.gateway.id)

    def adopt_missing(self) -> None:
        """Cancel what workers have left of which no last words came. Called when all workers are down."""
        for worker in sorted(self._started):
            self._adopt(worker)

    def _adopt(self, worker: str) -> None:
        self._started.discard(worker)
        self.outputs.append(self._session.adopt(worker))
