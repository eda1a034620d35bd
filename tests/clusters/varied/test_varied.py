"""Twenty and more varied tests, as users write them; they run unchanged on every backend."""

from __future__ import annotations

import math
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helpers
import pytest
from conftest import shared
from helpers import Thing, scaled

from pytest_clusterjobs import JobState, cluster


@dataclass
class Point:
    x: int
    y: int


class OwnError(Exception):
    pass


@cluster(cores=1, memory="100MB", time="00:05:00")
def add(x: int, y: int) -> int:
    return x + y


@cluster(cores=1)
def fail_with(error: Exception) -> None:
    raise error


@pytest.mark.real_world
class TestFunctions:
    def test_value(self) -> None:
        result = add(10, 32)
        assert (result, type(result)) == (42, int)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_parametrized(self, n: int) -> None:
        assert add(n, n) == 2 * n

    def test_modules_beside(self) -> None:
        @cluster
        def use(x: int) -> tuple[int, int, int, Thing]:
            return scaled(x), shared(x), helpers.SCALE, Thing(x)

        *numbers, thing = use(2)
        assert numbers == [6, 102, 3]
        assert type(thing) is Thing

    def test_own_class(self) -> None:
        @cluster
        def make() -> Point:
            return Point(1, 2)

        assert make() == Point(1, 2)

    def test_odd_values(self) -> None:
        @cluster
        def odd() -> tuple[float, set[int], bytes]:
            return float("nan"), {1, 2}, b"\0"

        nan, numbers, data = odd()
        assert math.isnan(nan)
        assert (numbers, data) == ({1, 2}, b"\0")

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="Intentional test error"):
            fail_with(ValueError("Intentional test error"))

    def test_own_exception(self) -> None:
        with pytest.raises(OwnError):
            fail_with(OwnError("mine"))

    def test_map(self) -> None:
        assert add.map(range(10), range(10)) == [2 * i for i in range(10)]

    def test_batch(self) -> None:
        with cluster.batch():
            jobs = [add.submit(i, 1) for i in range(3)]
        assert [job.result() for job in jobs] == [1, 2, 3]

    def test_parallel_loop(self) -> None:
        @cluster(cores=2, parallel=True)
        def squares(numbers: list[int]) -> list[int]:
            found = []
            for number in numbers:
                found.append(number * number)
            return found

        assert squares(list(range(10))) == [n * n for n in range(10)]

    def test_logs(self) -> None:
        @cluster
        def speak() -> None:
            print("hello from the job")

        job = speak.submit()
        job.result()
        assert job.logs().stdout == "hello from the job\n"

    def test_cancel(self, cluster_jobs: Any) -> None:
        job = cluster_jobs.submit("sleep 100")
        job.cancel()
        assert job.wait(30)
        assert job.state is JobState.CANCELLED

    def test_timeout(self) -> None:
        @cluster(timeout=1)
        def endless() -> None:
            time.sleep(100)

        with pytest.raises(TimeoutError, match="timeout of 1 s"):
            endless()

    def test_method(self) -> None:
        assert self.plus(3) == 8

    base = 5

    @cluster
    def plus(self, x: int) -> int:
        return self.base + x

    def test_backend(self, cluster_backend: Any, cluster_workdir: Path) -> None:
        @cluster
        def touch(folder: Path) -> None:
            (folder / "made on the node").write_text("x")

        touch(cluster_workdir)
        assert (cluster_workdir / "made on the node").exists()
        assert cluster_backend.info.nodes >= 1


@cluster(cores=1)
def test_body_runs_in_a_job() -> None:
    assert os.environ["CLUSTERJOBS_JOB_ID"]


@cluster(cores=1)
def test_body_gets_fixtures(numbers: list[int], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert sum(numbers) == 6


@cluster(cores=1)
@pytest.mark.parametrize(("a", "b"), [(1, 2), (3, 4)])
def test_body_parametrized(a: int, b: int) -> None:
    assert a + 1 == b


@cluster(cores=1)
def test_body_skips() -> None:
    pytest.skip("not here")


@cluster(cores=1)
def test_body_xfails() -> None:
    pytest.xfail("known")


@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
@cluster(cores=1)
def test_body_is_expected_to_fail() -> None:
    assert 1 / 0


@cluster(cores=1)
def test_body_raises_and_warns() -> None:
    with pytest.raises(KeyError):
        {"b": 1}["a"]
    with pytest.warns(UserWarning, match="careful"):
        warnings.warn("careful", stacklevel=1)


class TestBodies:
    base = 5

    @cluster(cores=1)
    def test_method(self, numbers: list[int]) -> None:
        assert self.base + numbers[0] == 6
