"""What `@cluster` refuses, and in which words; nothing here is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs import cluster
from pytest_clusterjobs.core.errors import SpecError


@cluster(cores=1)
def scale(factor: float, by: float = 1.0) -> float:
    return factor * by


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((1, 2, 3), {}, "scale(): too many positional arguments"),
        ((), {"by": 2}, "scale(): missing a required argument: 'factor'"),
        ((1,), {"bye": 2}, "scale(): got an unexpected keyword argument 'bye'"),
    ],
)
def test_wrong_call_names_the_function_and_shows_no_frames_of_the_library(args: Any, kwargs: Any, words: str) -> None:
    """The report showed forty lines of ``inspect``, and no name."""
    with pytest.raises(TypeError) as caught:
        scale.submit(*args, **kwargs)
    assert str(caught.value) == words
    assert "inspect" not in {Path(entry.path).stem for entry in caught.traceback}


@pytest.mark.parametrize("given", [3, ["4-scale"], "4-scale", None])
def test_depends_on_anything_but_jobs_is_refused(given: Any) -> None:
    with pytest.raises(SpecError, match=r"depends_on=.*must be a list of jobs"):
        scale.options(depends_on=given)


def test_class_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(SpecError, match=r"not the class TestAll; decorate its methods, or .*@pytest.mark.cluster"):

        @cluster(cores=1)
        class TestAll: ...


def test_fixture_below_is_refused() -> None:
    """It was taken for a function: pytest did not find the fixture."""
    with pytest.raises(SpecError, match=r"put @pytest\.fixture above @cluster"):

        @cluster(cores=1)
        @pytest.fixture
        def database() -> int:
            return 1
