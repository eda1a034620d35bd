"""What is remembered of one job on a Kubernetes cluster."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_clusterjobs.backends.kubernetes_api import Stream
from pytest_clusterjobs.backends.kubernetes_files import Inbox
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.state import JobStatus


@dataclass(eq=False, slots=True)
class Entry:
    """One job. Times are of ``time.monotonic``; guarded by the tracker's lock."""

    #: The Job's name.
    native_id: str
    #: What it asks for.
    cores: int
    #: Where what it sends becomes files.
    inbox: Inbox
    #: True: its files are on a volume that this machine sees too.
    is_shared: bool
    #: What is known of it.
    status: JobStatus
    #: When it was accepted.
    submitted: float = 0.0
    #: True once the server has accepted it.
    is_accepted: bool = False
    #: Its pod's name, "" before there is one.
    pod: str = ""
    #: That pod's unique id.
    pod_uid: str = ""
    #: What the cluster holds that pod to.
    given: Resources | None = None
    #: Since when its container runs.
    running_since: float | None = None
    #: Since when something keeps it from starting that may pass.
    trouble_since: float | None = None
    #: Since when its node is not heard from.
    silent_since: float | None = None
    #: True while the scheduler finds no node for it.
    is_unschedulable: bool = False
    #: Its log while that is followed.
    stream: Stream | None = None
    #: True while a thread follows it.
    is_followed: bool = False
    #: When one began to, last.
    followed_at: float = float("-inf")
    #: True once somebody works on its end.
    is_ending: bool = False
    #: True once its state is final.
    is_settled: bool = False
