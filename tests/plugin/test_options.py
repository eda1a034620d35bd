"""Options, ini values and variables: one meaning, one precedence, and errors that name the place and the remedy."""

from __future__ import annotations

import os
import sys

import pytest

CLUSTER_TEST = """
import pytest

@pytest.mark.real_world
def test_remote(cluster_config):
    print("settings:", cluster_config)
"""

OPTIONS = (
    "--cluster=NAMES",
    "--cluster-missing=error|skip",
    "--run-expensive",
    "--cluster-timeout=DURATION",
    "--cluster-queue-timeout=DURATION",
    "--cluster-max-jobs=N",
    "--cluster-keep=failed|always|never",
    "--cluster-workdir=PATH",
    "--cluster-check",
    "--cluster-report=PATH",
    "--cluster-up",
)


def refusal(project: pytest.Pytester, *args: str) -> str:
    result = project.runpytest_inprocess(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    return result.stderr.str()


def test_help_lists_every_option_and_its_ini_and_variable(project: pytest.Pytester) -> None:
    text = project.runpytest_inprocess("--help").stdout.str()
    for option in OPTIONS:
        assert option in text
    assert "clusterjobs_queue_timeout" in text
    assert "CLUSTERJOBS_QUEUE_TIMEOUT" in text.replace("\n" + " " * 24, " ")


def test_markers_are_registered_with_their_signatures(project: pytest.Pytester) -> None:
    text = project.runpytest_inprocess("--markers").stdout.str()
    assert "@pytest.mark.cluster(*backends, cores=1, memory=None" in text
    for name in ("real_world", "expensive", "no_cluster(*backends)", "cluster_xfail(reasons"):
        assert f"@pytest.mark.{name}" in text


def test_strict_markers_know_ours(project: pytest.Pytester) -> None:
    project.makepyfile("import pytest\n@pytest.mark.expensive\n@pytest.mark.cluster('local')\ndef test_x(): pass")
    project.runpytest_inprocess("--strict-markers").assert_outcomes(skipped=1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--cluster=slrum", "--cluster: no backend named 'slrum'; known: local, slurm*did you mean 'slurm'?"),
        ("--cluster=atuo", "*did you mean 'auto'?"),
        ("--cluster=local,,slurm", "--cluster: 'local,,slurm' has an empty name*"),
        ("--cluster=none,local", "--cluster: 'none,local' mixes 'none' with others*"),
        ("--cluster-keep=alwys", "--cluster-keep: 'alwys' *allowed: failed, always, never*did you mean 'always'?"),
        ("--cluster-missing=ignore", "--cluster-missing: 'ignore' *allowed: error, skip*"),
        ("--cluster-timeout=soon", "--cluster-timeout='soon' is no duration; write *HH:MM:SS*"),
        ("--cluster-queue-timeout=0", "--cluster-queue-timeout='0' must be more than zero*"),
        ("--cluster-max-jobs=0", "--cluster-max-jobs: '0' is no whole number of 1 or more"),
        ("--cluster-max-jobs=1.5", "--cluster-max-jobs: '1.5' is no whole number of 1 or more"),
        ("--cluster-report=out.htm", "--cluster-report: 'out.htm' *allowed: .json, .md, .html*did you mean '.html'?"),
        ("--cluster-up", "--cluster-up *no backend is named; write --cluster=NAME with one of: slurm*"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(project: pytest.Pytester, option: str, message: str) -> None:
    project.makepyfile(CLUSTER_TEST)
    result = project.runpytest_inprocess(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert not (project.path / ".clusterjobs").exists()


def test_a_cluster_that_cannot_be_thrown_away_cannot_be_booted(project: pytest.Pytester) -> None:
    assert "none of local has one" in refusal(project, "--cluster=local", "--cluster-up")


def test_the_ini_value_is_named_in_its_error(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nclusterjobs_keep = sometimes")
    assert "clusterjobs_keep: 'sometimes'" in refusal(project)


def test_the_variable_is_named_in_its_error(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_RUN_EXPENSIVE", "perhaps")
    assert "CLUSTERJOBS_RUN_EXPENSIVE: 'perhaps' is neither true nor false" in refusal(project)


def test_help_works_with_a_wrong_ini_file(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nclusterjobs_cluster = nowhere\nclusterjobs_keep = sometimes")
    for option in ("--help", "--version", "--markers", "--fixtures"):
        assert project.runpytest_inprocess(option).ret == 0


def test_command_line_over_variable_over_ini(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makepyfile(CLUSTER_TEST)

    def header(*args: str) -> str:
        lines = project.runpytest_inprocess("--collect-only", *args).stdout.lines
        return next((line.partition(", ")[2] for line in lines if line.startswith("clusterjobs: run ")), "")

    assert header() == ""
    project.makeini("[pytest]\nclusterjobs_cluster = local\nclusterjobs_keep = never")
    assert header() == "backends: local (from clusterjobs_cluster), keep never"
    monkeypatch.setenv("CLUSTERJOBS_CLUSTER", "slurm, local")
    monkeypatch.setenv("CLUSTERJOBS_KEEP", "always")
    assert header() == "backends: slurm, local (from CLUSTERJOBS_CLUSTER), keep always"
    assert header("--cluster=slurm", "--cluster-keep=failed") == "backends: slurm (from --cluster), keep failed"
    monkeypatch.setenv("CLUSTERJOBS_CLUSTER", "")
    assert header() == "backends: local (from clusterjobs_cluster), keep always"


def test_the_header_names_the_default_when_the_mark_asks(project: pytest.Pytester) -> None:
    project.makepyfile(CLUSTER_TEST)
    project.makeini("[pytest]\nclusterjobs_default = slurm")
    result = project.runpytest_inprocess("--collect-only", "-m", "real_world")
    result.stdout.fnmatch_lines(["clusterjobs: run ????????, backends: slurm (from -m), keep failed"])


@pytest.mark.parametrize("args", [(), ("-m", "not real_world"), ("--cluster=none",)])
def test_no_header_when_nothing_was_asked(project: pytest.Pytester, args: tuple[str, ...]) -> None:
    project.makepyfile(CLUSTER_TEST, test_other="def test_x(): pass")
    project.runpytest_inprocess(*args).stdout.no_fnmatch_line("clusterjobs: run*")


def test_an_unknown_default_is_refused(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nclusterjobs_default = locl")
    assert "clusterjobs_default: no backend named 'locl'" in refusal(project)


def test_options_reach_the_settings(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_settings(cluster_config, pytestconfig):
            assert cluster_config.timeout_s == 90.0
            assert cluster_config.queue_timeout_s == 5400.0
            assert cluster_config.max_jobs == 3
            assert cluster_config.keep == "always"
            assert cluster_config.workdir == str(pytestconfig.rootpath / "elsewhere" / "jobs")
        """
    )
    project.runpytest_inprocess(
        "--cluster-timeout=90",
        "--cluster-queue-timeout=1h30m",
        "--cluster-max-jobs=3",
        "--cluster-keep=always",
        "--cluster-workdir=elsewhere/jobs",
    ).assert_outcomes(passed=1)


def test_an_ini_path_is_relative_to_the_root(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nclusterjobs_workdir = jobs")
    inner = project.mkdir("inner")
    (inner / "test_inner.py").write_text(
        "def test_x(cluster_config, pytestconfig):\n"
        "    assert cluster_config.workdir == str(pytestconfig.rootpath / 'jobs')\n"
    )
    os.chdir(inner)
    project.runpytest_inprocess("--rootdir", str(project.path), "-c", str(project.path / "tox.ini")).assert_outcomes(
        passed=1
    )


def test_a_report_that_cannot_be_written_is_refused_before_the_run(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(): raise SystemExit('ran')")
    (project.path / "file").write_text("")
    assert "cannot write" in refusal(project, "--cluster-report=file/report.json")
    project.mkdir("taken.json")
    assert "Is a directory" in refusal(project, "--cluster-report=taken.json")


def test_everything_works_without_xdist(project: pytest.Pytester) -> None:
    project.makepyfile(CLUSTER_TEST)
    result = project.runpytest_inprocess("-p", "no:xdist", "--cluster=local")
    result.assert_outcomes(passed=1)


def test_a_job_that_runs_pytest_is_not_steered_by_our_variables(project: pytest.Pytester) -> None:
    """The options of the outer pytest are not the inner one's: the engine does not hand our variables to jobs."""
    project.makepyfile(
        f"""
        import pytest
        @pytest.mark.real_world
        def test_nested(cluster_jobs):
            value = cluster_jobs.run([{sys.executable!r}, "-c", "import os; print(sorted(os.environ))"])
            assert "CLUSTERJOBS_CLUSTER" not in value.stdout
        """
    )
    os.environ["CLUSTERJOBS_CLUSTER"] = "local"
    try:
        project.runpytest_inprocess().assert_outcomes(passed=1)
    finally:
        del os.environ["CLUSTERJOBS_CLUSTER"]
