"""The report as Markdown: what it says, what it lets stand for itself, and how it keeps to its size."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_clusterjobs.reports import markdown
from pytest_clusterjobs.reports.model import ReportedTest, RunReport
from tests.reports.samples import run_report


def failing(text: str = "", reason: str = "", nodeid: str = "test_a.py::test_x") -> RunReport:
    test = ReportedTest(nodeid, "failed", reason=reason, text=text, has_run=True)
    return replace(run_report(0), tests=(test,), counts={"failed": 1})


def test_it_counts_per_backend_and_says_who_does_not_answer() -> None:
    text = markdown.render(run_report(30))
    assert text.startswith(
        "## Cluster jobs: 3 failed, 27 passed\n\nRun `1a2b3c4d`, 2025-03-01 12:00:00 UTC, 5 m 20 s\n"
    )
    assert "\n| slurm (slurm 23.11) | 20 | 2 | 0 | 0 | 20 | 1 m 40 s | 3 m 20 s |\n" in text
    assert "\n| pbs | 10 | 1 | 0 | 0 | 10 | 50 s | 1 m 40 s |\n" in text
    assert "\n- lsf does not answer: no bsub\n" in text


def test_a_failure_has_its_jobs_and_its_log() -> None:
    text = markdown.render(run_report(10))
    block = text[text.index("<details>") : text.index("</details>")]
    assert "test_energy_is_kept[9-slurm]</code> on slurm: JobFailed: a memory limit ended it</summary>\n\n" in block
    cells = (
        "simulate | 40009 | FAILED: out\\_of\\_memory, exit code 137 | node9 | 5.00 s | 10 s | 4 cores, 1 GiB, 5 m 00 s"
    )
    assert f"\n| {cells} | cpu 20 s, 512 MiB |\n" in block
    assert "\nslurmstepd: error: oom_kill event\n```\n" in block


def test_it_ends_with_the_command() -> None:
    report = run_report(10)
    assert markdown.render(report).endswith(f"```shell\n{report.rerun}\n```\n\n")
    assert "Run again" not in markdown.render(replace(report, rerun=""))


@pytest.mark.parametrize("text", ["```\nbold\n```", "a ```` b", "plain"])
def test_a_log_cannot_leave_its_fence(text: str) -> None:
    rendered = markdown.render(failing(text))
    (fence,) = re.findall(r"^(`+)text$", rendered, re.MULTILINE)
    inside = rendered.split(f"{fence}text\n")[1].split(f"\n{fence}\n")[0]
    assert inside == text


def test_names_and_reasons_stand_for_themselves() -> None:
    rendered = markdown.render(failing("", "<img src=x> | *a* `b`\nnext", "test_a.py::test_x[<b>|`]"))
    assert "<summary><code>test_a.py::test_x[&lt;b&gt;|`]</code>: &lt;img src=x&gt; | *a* `b`</summary>" in rendered
    report = replace(run_report(0), problems=("<img> a|b *c*",))
    assert "- problem: <code>&lt;img&gt; a\\|b \\*c\\*</code>\n" in markdown.render(report)


@pytest.mark.parametrize("limit", [5_000_000, 1024 * 1024, 100_000, 20_000, 3_000])
def test_it_keeps_to_its_size_and_loses_logs_before_lines(limit: int) -> None:
    report = run_report(5000)
    text = markdown.render(report, limit)
    assert 1000 < len(text.encode()) <= limit
    blocks, lines = text.count("<details>"), text.count("\n- <code>")
    rest = re.search(r"\nand (\d+) more: there is no room for them here\n", text)
    assert blocks + lines + (int(rest[1]) if rest else 0) == 500
    assert (limit == 5_000_000) == (blocks == 500)
    assert text.endswith(f"{report.rerun}\n```\n\n")


def test_without_room_it_is_empty() -> None:
    assert markdown.render(run_report(5), 50) == ""


def test_skips_and_what_was_left_are_listed() -> None:
    tests = tuple(
        ReportedTest(f"test_a.py::test_{number}", "skipped", "slurm", reason=f"reason_{number % 2}")
        for number in range(3)
    )
    report = replace(run_report(0), tests=tests, kept=tuple(f"/jobs/{number}" for number in range(60)), rerun="")
    text = markdown.render(report)
    assert "### Skipped\n- 2: reason\\_0\n- 1: reason\\_1\n" in text.replace("\n\n", "\n")
    assert (text.count("- kept: "), "- and 10 more" in text) == (50, True)
