"""What the plugin remembers of a test, on its stash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from pytest_clusterjobs.decorator import ClusterFunction
    from pytest_clusterjobs.plugin.marks import ClusterMarks
    from pytest_clusterjobs.plugin.selection import Plan


class ClusterItem(NamedTuple):
    """What is known of a test that has to do with clusters, once it is collected."""

    #: What its markers and its decorator say.
    marks: ClusterMarks
    #: What becomes of it.
    plan: Plan
    #: The decorated function, where its body is the job.
    function: ClusterFunction[..., Any] | None


ITEM = pytest.StashKey[ClusterItem]()
#: The backend that it runs on, once that is known.
BACKEND = pytest.StashKey[str]()
#: True on a test that cannot be set up because a backend does not answer.
TROUBLE = pytest.StashKey[bool]()
#: True once one of its phases has failed.
FAILED = pytest.StashKey[bool]()
#: Its figures of performance, in JSON types, once its body has passed.
FIGURES = pytest.StashKey[list[dict[str, Any]]]()
#: Ids of the jobs that a report of it has told about.
TOLD = pytest.StashKey[set[str]]()
