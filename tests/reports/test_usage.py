"""Lines about what jobs used of what they asked for."""

from __future__ import annotations

from typing import Any

from pytest_clusterjobs.reports.usage import hint_lines, usage_line


def job(test: str | None = "test_a.py::test_x", hints: tuple[str, ...] = (), **parts: tuple[float, float]) -> Any:
    used = {name: {"used": used, "asked": asked} for name, (used, asked) in parts.items()}
    return {"test": test, "label": "work", "efficiency": {**used, "hints": list(hints)}}


def test_parts_are_of_all_jobs_together() -> None:
    jobs = [job(cores=(1.0, 10.0), memory=(1.0, 4.0)), job(cores=(9.0, 10.0)), job()]
    assert usage_line(jobs) == "used 50% of the cores, 25% of the memory asked for"


def test_what_nobody_knows_is_not_told() -> None:
    assert usage_line([job(time=(1.0, 2.0)), {"test": None, "label": "old"}]) == ""
    assert usage_line([]) == ""


def test_each_hint_is_told_once_a_test_and_the_rest_are_counted() -> None:
    jobs = [job(hints=("asks for much",))] * 3 + [job(f"test_{number}", ("asks for more",)) for number in range(4)]
    assert hint_lines(jobs, 2) == [
        "test_a.py::test_x asks for much",
        "test_0 asks for more",
        "3 more ask for ten times what they use",
    ]
    assert hint_lines([job(None, ("asks for much",))], 2) == ["work asks for much"]
    assert hint_lines([job()], 2) == []
