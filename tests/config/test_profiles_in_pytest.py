"""Profiles as users of pytest meet them: wherever a backend's name stands, a profile's may."""

from __future__ import annotations

import json
import os
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

import pytest

CONFIGURATION = """\
defaults:
  env: {SHARED: all}
  account: ab12
profiles:
  small:
    backend: local
    cores: 1
    env: {WHERE: small}
    prologue: export FROM_PROLOGUE=yes
  big:
    extends: small
    cores: 2
    keep: always
    env: {WHERE: big}
"""

TESTS = """
import os
import pytest
from pytest_clusterjobs import cluster

@cluster
def seen():
    return {name: os.environ.get(name) for name in ("SHARED", "WHERE", "FROM_PROLOGUE", "OWN")}

@pytest.mark.real_world
def test_place(cluster_backend):
    job = seen.submit()
    values = job.result()
    assert values["SHARED"] == "all"
    assert values["WHERE"] == cluster_backend.name == job.record.backend
    assert values["FROM_PROLOGUE"] == "yes"
    assert job.record.spec.account == "ab12"
    assert job.record.spec.cores == {"small": 1, "big": 2}[cluster_backend.name]
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of our variables, nobody's file, and the plugin whether or not it is installed."""
    for name in [name for name in os.environ if name.startswith("CLUSTERJOBS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("COLUMNS", "160")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])))
    if not entry_points(group="pytest11", name="clusterjobs"):
        monkeypatch.setenv("PYTEST_PLUGINS", "pytest_clusterjobs.plugin")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    (pytester.path / "clusterjobs.yaml").write_text(CONFIGURATION)
    return pytester


def test_profiles_are_selected_by_name_and_tests_run_over_them(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    result = project.runpytest("--cluster=small,big", "-v", "--cluster-keep=never")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_place?small?*PASSED*", "*test_place?big?*PASSED*"])


def test_workers_of_xdist_know_profiles(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    project.runpytest_subprocess("--cluster=small,big", "-n2", "--cluster-keep=never").assert_outcomes(passed=2)


def test_marker_decorator_and_default_take_profiles_and_the_job_s_own_settings_win(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os, pytest
        from pytest_clusterjobs import cluster

        @cluster(backend="big", cores=1, env={"OWN": "1"})
        def test_decorated():
            assert (os.environ["WHERE"], os.environ["OWN"], os.environ["SHARED"]) == ("big", "1", "all")
            assert len(os.sched_getaffinity(0)) == 1

        @cluster
        def where():
            return os.environ.get("WHERE"), len(os.sched_getaffinity(0))

        @pytest.mark.cluster("big")
        def test_pinned():
            assert where() == ("big", 2)

        @pytest.mark.cluster("big", cores=1)
        def test_marker_wins_over_the_profile():
            assert where() == ("big", 1)

        @pytest.mark.real_world
        def test_default():
            assert where() == ("small", 1)
        """
    )
    options = ["-m", "real_world", "-o", "clusterjobs_default=small", "--cluster-keep=never"]
    project.runpytest(*options).assert_outcomes(passed=4)


def test_option_wins_over_the_profile(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    project.runpytest("--cluster=big").assert_outcomes(passed=1)
    assert list(project.path.glob(".clusterjobs/*/main/1-seen"))  # keep: always
    project.runpytest("--cluster=big", "--cluster-keep=never", "--cluster-workdir=other").assert_outcomes(passed=1)
    assert not list(project.path.glob("other/*/main/1-seen"))


def test_profile_may_change_a_backend_and_name_the_work_directory(pytester: pytest.Pytester) -> None:
    (pytester.path / "clusterjobs.yaml").write_text(
        "profiles:\n  local: {env: {WHERE: local}, workdir: jobs, keep: always, max_jobs: 3}\n"
    )
    pytester.makepyfile(
        """
        import os
        from pytest_clusterjobs import cluster

        @cluster
        def test_it():
            assert os.environ["WHERE"] == "local"
        """
    )
    pytester.runpytest("-m", "real_world").assert_outcomes(passed=1)
    assert list(pytester.path.glob("jobs/*/main/1-test_it"))
    assert not (pytester.path / ".clusterjobs").exists()


def test_job_for_a_profile_with_another_work_directory_is_refused_with_what_to_do(pytester: pytest.Pytester) -> None:
    (pytester.path / "clusterjobs.yaml").write_text("profiles: {far: {backend: local, workdir: far}}\n")
    pytester.makepyfile(
        """
        from pytest_clusterjobs import cluster

        @cluster(backend="far")
        def test_it(): pass
        """
    )
    result = pytester.runpytest("-m", "real_world")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the profile 'far' has workdir=*select the profile for it with --cluster=far*"])
    pytester.runpytest("--cluster=far").assert_outcomes(passed=1)


@pytest.mark.parametrize("options", [["--cluster=local"], ["-m", "real_world"], ["--cluster-check"]])
def test_wrong_file_is_a_usage_error_before_anything_runs(pytester: pytest.Pytester, options: list[str]) -> None:
    (pytester.path / "clusterjobs.yaml").write_text("defaults:\n  coers: 2\n  time: x\n")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: the configuration has 2 errors:",
            "*/clusterjobs.yaml:2: defaults.coers: there is no such key — did you mean 'cores'*",
            "*/clusterjobs.yaml:3: defaults.time: time='x' is no duration*",
        ]
    )


def test_work_directories_that_differ_are_a_usage_error_before_anything_runs(pytester: pytest.Pytester) -> None:
    """Each test was an error instead, with fifty lines of this package's own code."""
    pytester.makepyfile(TESTS)
    pytester.path.joinpath("clusterjobs.yaml").write_text("profiles: {far: {backend: local, workdir: jobs}}")
    result = pytester.runpytest_inprocess("--cluster=far,local")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: workdir is one for the whole run*(far: */jobs, local: default); * or give --cluster-workdir or *"]
    )
    assert pytester.runpytest_inprocess("--cluster=far,local", "--collect-only").ret == pytest.ExitCode.OK


def test_wrong_file_is_not_read_where_no_cluster_is_asked_for(pytester: pytest.Pytester) -> None:
    (pytester.path / "clusterjobs.yaml").write_text("coers: 2")
    pytester.makepyfile(TESTS)
    pytester.runpytest().assert_outcomes(skipped=1)


def test_missing_file_of_the_variable_is_a_usage_error(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERJOBS_CONFIG", "nowhere.yaml")
    result = project.runpytest("--cluster=local")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: CLUSTERJOBS_CONFIG: there is no file '*/nowhere.yaml'"])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "ERROR: --cluster: no backend or profile named 'bigg'; known: local, *big*— did you mean 'big'?"),
        ("@pytest.mark.cluster('bigg')\ndef test_it(): pass", "*no backend or profile named 'bigg'*mean 'big'?*"),
        ("@cluster(backend='bigg')\ndef test_it(): pass", "*no backend or profile named 'bigg'*mean 'big'?*"),
    ],
)
def test_unknown_profile_is_an_error_with_the_nearest(project: pytest.Pytester, source: str, said: str) -> None:
    project.makepyfile(f"import pytest\nfrom pytest_clusterjobs import cluster\n{source}\n")
    result = project.runpytest("-m", "real_world", *([] if source else ["--cluster=bigg"]))
    assert result.ret in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED)
    (result.stdout if source else result.stderr).fnmatch_lines([said])


def test_values_of_env_are_in_no_output_and_no_report(pytester: pytest.Pytester) -> None:
    (pytester.path / "clusterjobs.yaml").write_text("profiles: {p: {backend: local, env: {TOKEN: s3cret}}}")
    pytester.makepyfile(
        """
        import os
        from pytest_clusterjobs import cluster

        @cluster
        def test_it():
            has_arrived = os.environ["TOKEN"].startswith("s3")
            assert not has_arrived, "as expected"
        """
    )
    result = pytester.runpytest("--cluster=p", "-vv", "-l", "--cluster-report=report.json", "--cluster-keep=always")
    result.assert_outcomes(failed=1)
    report = (pytester.path / "report.json").read_text()
    assert json.loads(report)
    assert "TOKEN" in report
    kept = [path for path in pytester.path.glob(".clusterjobs/**/*") if path.is_file()]
    assert kept
    texts = [path.read_text(errors="replace") for path in kept if path.suffix in (".json", ".jsonl", ".sh")]
    assert "s3cret" not in report + "".join(texts)


def test_program_without_pytest_has_profiles_too(project: pytest.Pytester) -> None:
    script = project.makepyfile(
        program="""
        import os
        from pytest_clusterjobs import cluster

        @cluster(backend="big", keep="never")
        def where():
            return os.environ["WHERE"], os.environ["SHARED"]

        if __name__ == "__main__":
            print(where())
        """
    )
    result = project.runpython(script)
    result.stdout.fnmatch_lines(["('big', 'all')"])


def test_markers_that_name_a_backend_mean_its_profiles(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.cluster("local")
        def test_pinned(cluster_backend): assert cluster_backend.name == "small"

        @pytest.mark.cluster("big")
        def test_pinned_to_another(cluster_backend): assert False

        @pytest.mark.real_world
        @pytest.mark.no_cluster("local")
        def test_excluded(cluster_backend): assert False

        @pytest.mark.real_world
        @pytest.mark.no_cluster("big")
        def test_another_is_excluded(cluster_backend): assert cluster_backend.name == "small"

        @pytest.mark.real_world
        @pytest.mark.cluster_xfail({"local": "why not"}, strict=True)
        def test_expected(cluster_backend): assert False

        @pytest.mark.real_world
        @pytest.mark.cluster_xfail({"big": "why not"}, strict=True)
        def test_expected_elsewhere(cluster_backend): pass
        """
    )
    project.runpytest("--cluster=small").assert_outcomes(passed=3, skipped=2, xfailed=1)


def test_slow_profile_gives_a_test_s_job_more_time(project: pytest.Pytester) -> None:
    (project.path / "clusterjobs.yaml").write_text("profiles: {slow: {backend: local, timeout_factor: 300}}")
    project.makepyfile("""
        import time
        from pytest_clusterjobs import cluster

        @cluster(timeout=0.2)
        def test_slow():
            time.sleep(1)
    """)
    result = project.runpytest_subprocess("--cluster=local,slow", "-q")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*timeout of 0.2 s*", "FAILED *test_slow?local?*"])


SERIAL_TESTS = """
import os
import time
import pytest

pytestmark = pytest.mark.real_world

@pytest.mark.parametrize("number", range(6))
def test_place(cluster_backend, number):
    begin = time.monotonic()
    time.sleep(0.2)
    with open(f"{cluster_backend.name}-{number}.txt", "w") as file:
        print(begin, time.monotonic(), os.environ.get("PYTEST_XDIST_WORKER", "alone"), file=file)
"""


class TestSerialProfile:
    @pytest.fixture
    def project(self, pytester: pytest.Pytester) -> pytest.Pytester:
        pytest.importorskip("xdist")
        (pytester.path / "clusterjobs.yaml").write_text("profiles: {device: {backend: local, serial: true}}")
        pytester.makepyfile(SERIAL_TESTS)
        return pytester

    @staticmethod
    def spans(project: pytest.Pytester, place: str) -> list[tuple[float, float]]:
        texts = [path.read_text().split() for path in project.path.glob(f"{place}-?.txt")]
        return sorted((float(begin), float(end)) for begin, end, _ in texts)

    @staticmethod
    def workers(project: pytest.Pytester, place: str) -> set[str]:
        return {path.read_text().split()[2] for path in project.path.glob(f"{place}-?.txt")}

    @pytest.mark.parametrize("dist", ["load", "loadgroup", "worksteal"])
    def test_its_tests_run_one_after_another(self, project: pytest.Pytester, dist: str) -> None:
        result = project.runpytest_subprocess("--cluster=device,local", "-n2", f"--dist={dist}")
        result.assert_outcomes(passed=12)
        spans = self.spans(project, "device")
        assert len(spans) == 6
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans))

    @pytest.mark.skipif(
        not hasattr(pytest.Item, "_nodeid"), reason="xdist 3.8 groups nothing with pytest 9.2: it sets Item._nodeid"
    )
    def test_its_tests_go_to_one_worker(self, project: pytest.Pytester) -> None:
        project.runpytest_subprocess("--cluster=device,local", "-n2").assert_outcomes(passed=12)
        assert len(self.workers(project, "device")) == 1

    def test_without_workers_nothing_changes(self, project: pytest.Pytester) -> None:
        project.runpytest_subprocess("--cluster=device", "--strict-markers").assert_outcomes(passed=6)
