"""The HTML report in a real browser: it asks for nothing, is quick with 5,000 jobs, and finds what is searched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_clusterjobs.reports import files
from pytest_clusterjobs.reports.model import ReportedTest, RunReport
from tests.reports.browser import Browser
from tests.reports.samples import job, run_report

#: Set: the screenshots stay in this directory.
KEEP = os.environ.get("SCREENSHOTS")


def page_of(report: RunReport) -> str:
    return "".join(files.render(report, ".html"))


def test_five_thousand_jobs_fit_into_five_megabytes() -> None:
    assert len(page_of(run_report(5000)).encode()) < 5_000_000


def test_what_users_and_jobs_write_stays_text() -> None:
    test = ReportedTest("test_a.py::test_x[<i>]", "failed", "slurm", reason="</summary><script>", text="</pre><script>")
    text = page_of(replace(run_report(1), tests=(test,), rerun="echo '</pre><script>'"))
    assert text.count("<script") == 1
    assert "test_x[&lt;i&gt;]" in text


def test_an_unfinished_job_and_one_without_times_have_rows() -> None:
    waits, unknown = job(1), job(2)
    waits["metrics"].update(started_at=None, ended_at=None, run_time_s=None)
    waits["state"] = "PENDING"
    unknown["metrics"] = {"unknown": {}}
    text = page_of(replace(run_report(0), other_jobs=(waits, unknown)))
    assert re.findall(r'<rect class="(\w+)"', text) == ["queue"]
    assert text.count("<tr data-state=") == 2


def test_texts_beyond_the_room_are_left_out_and_said_to_be() -> None:
    test = ReportedTest("test_a.py::test_x", "failed", text="x" * 20_000)
    text = page_of(replace(run_report(0), tests=(test,) * 60))
    assert (text.count("<pre>"), text.count("There is no room for its text here")) == (50, 10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as started:
        started.call("Emulation.setDeviceMetricsOverride", width=1400, height=1000, deviceScaleFactor=1, mobile=False)
        started.call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        yield started


@pytest.fixture(scope="module", params=[5, 5000])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    files.write(run_report(request.param), str(path))
    return path


@pytest.mark.slow
class TestInABrowser:
    def test_it_is_drawn_within_two_seconds_and_asks_for_nothing(self, browser: Browser, page: Path) -> None:
        """Seconds of the browser's processor: what else this machine does is not the page's doing."""
        browser.call("Performance.enable")
        before = processor_time_s(browser)
        browser.open(page)
        browser.run("new Promise(drawn => requestAnimationFrame(() => setTimeout(drawn, 0)))")
        assert processor_time_s(browser) - before < 2
        assert browser.requested() == {page.as_uri()}
        assert browser.complaints() == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_can_be_read_in_light_and_dark(self, browser: Browser, page: Path, scheme: str, tmp_path: Path) -> None:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(page)
        back, *texts = browser.run(
            "['body', 'h1', 'h1 span', 'th', 'small', '.jobs td:nth-child(4)'].map(name => getComputedStyle("
            "document.querySelector(name))[name === 'body' ? 'backgroundColor' : 'color'])"
        )
        assert (luminance(back) > 0.5) == (scheme == "light")
        # What WCAG 2.1 asks of text, success criterion 1.4.3.
        assert min(contrast(back, text) for text in texts) >= 4.5
        folder = Path(KEEP) if KEEP else tmp_path
        browser.screenshot(folder / f"report-{page.stem}-{scheme}.png")
        assert (folder / f"report-{page.stem}-{scheme}.png").read_bytes().startswith(b"\x89PNG")

    def test_nothing_is_wider_than_the_page(self, browser: Browser, page: Path) -> None:
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")

    def test_a_search_filters_rows_and_timeline(self, browser: Browser, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        files.write(run_report(100), str(path))
        browser.open(path)
        assert shown(browser) == (100, 100, "100 jobs")
        search(browser, "q", "NODE9 simulate")
        assert shown(browser) == (3, 3, "3 of 100 jobs")
        search(browser, "state", "FAILED")
        assert browser.run("location.hash") == "#q=NODE9+simulate&state=FAILED"
        search(browser, "q", "")
        assert shown(browser) == (10, 10, "10 of 100 jobs")
        search(browser, "backend", "pbs")
        search(browser, "reason", "out_of_memory")
        assert shown(browser) == (3, 3, "3 of 100 jobs")
        assert browser.run("Number(document.getElementById('timeline').getAttribute('height'))") == 3 * 8
        assert browser.complaints() == []

    def test_a_search_finds_failures_by_their_logs(self, browser: Browser, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        files.write(run_report(100), str(path))
        browser.open(path)
        for words, backend, count in [("", "", 10), ("oom_kill", "", 10), ("kept[29-", "", 1), ("oom_kill", "pbs", 3)]:
            search(browser, "q", words)
            search(browser, "backend", backend)
            found = browser.run(
                "Array.from(document.querySelectorAll('#failures details')).filter(each => each.offsetHeight).length"
            )
            assert found == count, words

    def test_the_address_keeps_what_was_chosen(self, browser: Browser, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        files.write(run_report(100), str(path))
        browser.open(path, "backend=pbs&q=nowhere")
        assert shown(browser) == (0, 0, "0 of 100 jobs")
        browser.open(path, "backend=pbs&unknown=1")
        assert shown(browser) == (33, 33, "33 of 100 jobs")

    def test_without_scripts_everything_is_there(self, browser: Browser, page: Path) -> None:
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        try:
            browser.open(page)
            assert shown(browser)[:2] == (int(page.stem), int(page.stem))
            assert browser.run("getComputedStyle(document.getElementById('filter')).display") == "none"
        finally:
            browser.call("Emulation.setScriptExecutionDisabled", value=False)


def processor_time_s(browser: Browser) -> float:
    metrics = {each["name"]: each["value"] for each in browser.call("Performance.getMetrics")["metrics"]}
    return float(metrics["ProcessTime"])


def search(browser: Browser, name: str, value: str) -> None:
    """Choose a value as a user does."""
    browser.run(
        f"(field => {{ field.value = {value!r}; field.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
        f"(document.querySelector('[name={name}]'))"
    )


def shown(browser: Browser) -> tuple[int, int, str]:
    """Give how many rows and how many bars are to be seen, and what the page says of it."""
    rows, bars, said = browser.run(
        "[Array.from(document.querySelectorAll('.jobs tbody tr')).filter(row => !row.hidden).length,"
        " Array.from(document.querySelectorAll('#timeline g')).filter(bar => bar.style.display !== 'none').length,"
        " document.getElementById('shown').textContent]"
    )
    return rows, bars, said


def luminance(color: str) -> float:
    """Give the relative luminance of WCAG 2.1 of ``rgb(r, g, b)``."""
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
        for part in (int(text) / 255 for text in re.findall(r"\d+", color)[:3])
    )
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
