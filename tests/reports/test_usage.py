"""Lines about what jobs used of what they asked for."""

from __future__ import annotations

from typing import Any

from pytest_clusterjobs.reports.usage import hint_lines, usage_line


def job(test: str | None = "test_a.py::test_x", hint: str = "", **parts: tuple[float, float]) -> Any:
    used = {name: {"used": used, "asked": asked} for name, (used, asked) in parts.items()}
    return {"test": test, "label": "work", "efficiency": {**used, "hints": {"memory": hint} if hint else {}}}


def test_parts_are_of_all_jobs_together() -> None:
    jobs = [job(cores=(1.0, 10.0), memory=(1.0, 4.0)), job(cores=(9.0, 10.0)), job()]
    assert usage_line(jobs) == "used 50% of the cores, 25% of the memory asked for"


def test_what_nobody_knows_is_not_told() -> None:
    assert usage_line([job(time=(1.0, 2.0)), {"test": None, "label": "old"}]) == ""
    assert usage_line([]) == ""


def test_each_hint_is_told_once_a_test_and_the_rest_are_counted() -> None:
    jobs = [job(hint="asks for much", memory=(1, 99))] * 3
    jobs += [job(f"test_{number}", "asks for more", memory=(1, 99)) for number in range(4)]
    assert hint_lines(jobs, 2) == [
        "test_a.py::test_x asks for much",
        "test_0 asks for more",
        "3 more ask for ten times what they use",
    ]
    assert hint_lines([job(None, "asks for much", memory=(1, 99))], 2) == ["work asks for much"]
    assert hint_lines([job(memory=(50, 99))], 2) == []


def test_hint_of_an_array_is_that_of_the_element_that_used_most() -> None:
    """Each element had a line of its own, and one that used all did not silence those that used little."""
    array = [job(hint=f"uses {used}", memory=(used, 99)) for used in (1, 3, 2)]
    assert hint_lines(array, 9) == ["test_a.py::test_x uses 3"]
    assert hint_lines([*array, job(memory=(90, 99))], 9) == []
