"""A backend of somebody else: the machine under the desk, where jobs have no partitions and every job is announced."""

from __future__ import annotations

from typing import ClassVar

from pytest_clusterjobs.backends.base import BackendInfo, Capability, Submission, Submitted
from pytest_clusterjobs.backends.local import LocalBackend


class DeskBackend(LocalBackend):
    """The local scheduler under a name of its own."""

    name: ClassVar[str] = "desk"
    capabilities: ClassVar[frozenset[Capability]] = LocalBackend.capabilities - {Capability.PARTITIONS}

    def check(self) -> BackendInfo:
        return BackendInfo("desk 0.1", nodes=1, cores_per_node=super().check().cores_per_node)

    def submit(self, submission: Submission) -> Submitted:
        submitted = super().submit(submission)
        return Submitted(submitted.native_ids, f"put {submission.name} on the desk")
