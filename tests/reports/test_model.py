"""The report's data, and its JSON."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.plugin.values import REPORT_SUFFIXES
from pytest_clusterjobs.reports import files
from pytest_clusterjobs.reports import json as json_report
from pytest_clusterjobs.reports.model import OUTCOMES, ReportedBackend, ReportedTest, RunReport, gravest, shorten
from tests.reports.samples import job, run_report

MOMENT = datetime(2025, 3, 1, 12, 0, tzinfo=timezone.utc)


def report(**changes: Any) -> RunReport:
    fields: dict[str, Any] = {
        "run_id": "1a2b3c4d",
        "started_at": MOMENT,
        "ended_at": MOMENT.replace(second=3),
        "exit_status": 1,
        "counts": {"passed": 1, "error": 1},
        "backends": (ReportedBackend("slurm", False, reason="sbatch not found on PATH"),),
        "tests": (ReportedTest("test_a.py::test_x", "error", "slurm", 0.25, "no answer", True, ({"job_id": "1"},)),),
        "other_jobs": ({"job_id": "2"},),
    }
    return RunReport(**{**fields, **changes})


def test_the_gravest_phase_is_the_tests_outcome() -> None:
    assert gravest(("passed", "error")) == "error"
    assert gravest(("skipped", "failed")) == "failed"
    assert gravest(()) == "passed"


def test_the_dictionary_has_every_outcome_counted() -> None:
    counts = report().to_dict()["counts"]
    assert counts == {"passed": 1, "skipped": 0, "xfailed": 0, "xpassed": 0, "failed": 0, "error": 1}
    assert set(counts) == set(OUTCOMES)


def test_other_plugins_outcomes_are_kept() -> None:
    assert report(counts={"rerun": 2}).to_dict()["counts"]["rerun"] == 2


def test_jobs_are_those_of_tests_and_of_nobody() -> None:
    assert [job["job_id"] for job in report().jobs] == ["1", "2"]


def test_every_text_of_a_report_is_cleaned() -> None:
    """Neither XML nor UTF-8 nor a page has terminal colours, surrogates of undecodable bytes or carriage returns."""
    dirty = "\x1b[31mr\x9b1med\x1b[0m \udcff 10 %\r20 %\ufffe\r\n\x07\x90\x7f"
    test = ReportedTest("test_a.py::test_x", "failed", reason=dirty, text=dirty, jobs=({"detail": dirty, "exit": 1},))
    cleaned = report(tests=(test,), kept=(dirty,), other_jobs=({"nodes": [dirty]},)).cleaned()
    (told,) = cleaned.tests
    texts = [told.reason, told.text, told.jobs[0]["detail"], cleaned.kept[0], cleaned.other_jobs[0]["nodes"][0]]
    assert set(texts) == {"red  10 %\n20 %\n"}
    assert (told.jobs[0]["exit"], cleaned.started_at) == (1, MOMENT)


def test_a_long_text_keeps_its_ends() -> None:
    text = shorten("a" * 100 + "b" * 1000 + "c" * 300, 400)
    assert text.startswith("a" * 100 + "\n[... 1000 characters are left out here ...]\n")
    assert text.endswith("c" * 300)
    assert shorten("abc", 3) == "abc"


def test_a_report_keeps_to_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_report.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    figure = {"metric": "m", "value": 1.5, "unit": "s", "reference": None, "lower": None, "upper": None, "passed": None}
    told = run_report(20)
    full = replace(told, other_jobs=(job(1),), tests=(*told.tests, ReportedTest("a", "passed", figures=(figure,))))
    assert list(validator.iter_errors(json.loads("".join(json_report.render(full))))) == []
    wrongs: tuple[dict[str, Any], ...] = (
        {"schema": 2},
        {"more": 1},
        {"counts": {}},
        {"tests": [{}]},
        {"other_jobs": [{**job(1), "state": "?"}]},
    )
    for wrong in wrongs:
        assert list(validator.iter_errors({**json.loads("".join(json_report.render(told))), **wrong})), wrong


def test_rendered_json_says_the_same() -> None:
    loaded = json.loads("".join(json_report.render(report())))
    assert loaded == report().to_dict()
    assert (loaded["schema"], loaded["run_id"], loaded["duration_s"]) == (1, "1a2b3c4d", 3.0)
    assert loaded["started_at"] == "2025-03-01T12:00:00.000+00:00"
    assert loaded["backends"][0] == {
        "name": "slurm",
        "available": False,
        "version": None,
        "reason": "sbatch not found on PATH",
    }


@pytest.mark.parametrize(
    ("suffix", "start"), [(".json", "{\n"), (".md", "## Cluster jobs"), (".html", "<!DOCTYPE html>")]
)
def test_the_suffix_is_the_format(tmp_path: Path, suffix: str, start: str) -> None:
    assert suffix in REPORT_SUFFIXES
    files.write(run_report(1), str(tmp_path / f"report{suffix}"))
    assert (tmp_path / f"report{suffix}").read_text().startswith(start)


def test_reports_of_many_jobs_need_little_memory(tmp_path: Path) -> None:
    """What a report holds of a job, and what writing it takes on top; a run may grow by 20 kB for each."""
    for suffix in REPORT_SUFFIXES:  # what is loaded once does not count
        files.write(run_report(1), str(tmp_path / f"report{suffix}"))
    tracemalloc.start()
    try:
        many = run_report(1000).cleaned()
        for suffix in REPORT_SUFFIXES:
            files.write(many, str(tmp_path / f"report{suffix}"))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes / 1000 < 12_000


def test_writing_makes_the_directory_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "report.json"
    files.write(report(), str(path))
    assert json.loads(path.read_text())["exit_status"] == 1
    assert os.listdir(path.parent) == ["report.json"]


def test_a_report_that_cannot_be_rendered_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        files.write(report(other_jobs=({"job_id": Unprintable()},)), str(path))
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["report.json"])


def test_a_directory_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError):
        files.write(report(), str(tmp_path / "report.json"))
    assert os.listdir(tmp_path) == ["report.json"]
