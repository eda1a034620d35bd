"""pytest-xdist: one run for all workers, reports that cross, and workers that die. All in processes of their own."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xdist")

Report = Callable[..., Mapping[str, Any]]


def test_workers_share_one_run_and_nothing_collides(
    backends: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report_of: Report
) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    backends.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        @cluster
        def double(x): return 2 * x

        @pytest.mark.parametrize("number", range(6))
        @pytest.mark.real_world
        def test_values(number, cluster_workdir):
            assert double(number) == 2 * number
            assert double.map([1, 2]) == [2, 4]
        """
    )
    report = report_of("--cluster=answering,local", "-n3")
    assert report["counts"]["passed"] == 12
    jobs = [job for test in report["tests"] for job in test["jobs"]]
    assert len(jobs) == len({job["job_id"] for job in jobs}) == len({job["name"] for job in jobs}) == 36
    assert {job["name"].split("-")[1] for job in jobs} == {report["run_id"]}
    assert (tmp_path / "calls").read_text().split() == ["answering"]
    assert sorted(backend["name"] for backend in report["backends"]) == ["answering", "local"]
    assert not (backends.path / ".clusterjobs").exists()


def test_trouble_and_sections_cross_to_the_controller(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster
        from pytest_clusterjobs.core.errors import JobLost

        @pytest.mark.real_world
        def test_lost(): raise JobLost("cj-1 is lost")

        @cluster
        def test_fails():
            assert 1 == 2
        """
    )
    result = project.runpytest_subprocess("--cluster=local", "-n2", "--junit-xml=out.xml")
    result.assert_outcomes(errors=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "clusterjobs: run *, backends: local (from --cluster), keep failed",
            "*ERROR at call of test_lost*",
            "*- cluster job cj-*-gw?.1-test_fails -*",
            "directory: */gw?/1-test_fails (kept)",
            "local: 2 ran, 1 failed, 1 error; 1 job*",
            "kept: */.clusterjobs/*/gw?/1-test_fails",
        ]
    )
    suite = ET.parse(project.path / "out.xml").getroot()[0]  # noqa: S314 - written by the line above
    assert (suite.attrib["errors"], suite.attrib["failures"]) == ("1", "1")
    [run] = [path for path in (project.path / ".clusterjobs").iterdir() if path.is_dir()]
    assert [path.name for path in run.iterdir() if path.name.startswith("gw")] == [
        path.parent.name for path in run.glob("gw*/1-test_fails")
    ]


def test_a_killed_workers_jobs_are_cancelled_and_the_others_go_on(project: pytest.Pytester, report_of: Report) -> None:
    project.makepyfile(
        """
        import os, time
        from pytest_clusterjobs import cluster

        @cluster
        def linger(path):
            with open(path, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(120)

        def test_dies(tmp_path_factory):
            path = "pid"
            linger.submit(path)
            while not os.path.exists(path) or not open(path).read():
                time.sleep(0.01)
            os.kill(os.getpid(), 9)

        def test_other():
            pass
        """
    )
    report = report_of("-n1", "--cluster-keep=never")
    assert report["counts"]["failed"] == 1
    assert report["counts"]["passed"] == 1
    pid = int((project.path / "pid").read_text())
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    assert "worker gw0 died; its jobs were cancelled" in report["problems"]
    assert not (project.path / ".clusterjobs").exists()


def test_a_killed_workers_files_are_kept_and_listed_by_policy(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os
        from pytest_clusterjobs import cluster

        def test_dies():
            cluster(len)("abc")
            os.kill(os.getpid(), 9)
        """
    )
    result = project.runpytest_subprocess("-n1")
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed*", "kept: */.clusterjobs/*/gw0", "problem: worker gw0 died*"])


def test_an_idle_suite_is_left_alone(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(): pass")
    result = project.runpytest_subprocess("-n2")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= cluster jobs =*")
    assert not (project.path / ".clusterjobs").exists()


def test_auto_gives_every_worker_the_same_tests(backends: pytest.Pytester) -> None:
    backends.makepyfile("import pytest\n@pytest.mark.real_world\ndef test_x(): pass")
    result = backends.runpytest_subprocess("--cluster=auto", "-n2", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random(["*PASSED*test_x?local?*", "*PASSED*test_x?answering?*"])
