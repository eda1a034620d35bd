"""What a job used of what it asked for, and when that is worth a hint."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_clusterjobs.core.efficiency import hints, shares
from pytest_clusterjobs.core.record import JobMetrics
from pytest_clusterjobs.core.resources import Resources

GIB = 2**30


def metrics(requested: Resources, **figures: Any) -> JobMetrics:
    return JobMetrics(requested=requested, **figures)


def test_shares_are_of_what_was_asked_for() -> None:
    asked = Resources(cores=4, memory_bytes=GIB, time_limit_s=100)
    found = shares(metrics(asked, run_time_s=10.0, cpu_time_s=20.0, max_rss_bytes=GIB // 2))
    assert found == pytest.approx({"cores": 0.5, "memory": 0.5, "time": 0.1})


def test_what_is_not_known_or_not_asked_for_has_no_share() -> None:
    assert shares(metrics(Resources(cores=2))) == {}
    assert shares(metrics(Resources(cores=1), run_time_s=0.1, cpu_time_s=0.3, max_rss_bytes=1)) == {}


@pytest.mark.parametrize(
    ("asked", "used", "hint"),
    [
        (Resources(cores=20), {"run_time_s": 60.0, "cpu_time_s": 60.0}, "asks for 20 cores and keeps 1.0 busy"),
        (Resources(cores=8), {"run_time_s": 60.0, "cpu_time_s": 60.0}, None),
        (Resources(cores=20), {"run_time_s": 5.0, "cpu_time_s": 5.0}, None),
        (Resources(memory_bytes=GIB), {"max_rss_bytes": GIB // 10}, "asks for 1 GiB and uses 102 MiB"),
        (Resources(memory_bytes=GIB), {"max_rss_bytes": GIB // 9}, None),
        (Resources(memory_bytes=GIB // 4), {"max_rss_bytes": GIB // 100}, None),
        (Resources(memory_bytes=GIB), {}, None),
        (Resources(time_limit_s=7200), {"run_time_s": 60.0}, "asks for 2 h 00 m and runs 1 m 00 s"),
        (Resources(time_limit_s=1800), {"run_time_s": 1.0}, None),
    ],
)
def test_ten_times_more_than_used_is_worth_a_hint(asked: Resources, used: dict[str, float], hint: str | None) -> None:
    assert list(hints(metrics(asked, **used)).values()) == ([] if hint is None else [hint])
