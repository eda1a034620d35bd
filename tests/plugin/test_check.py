"""``--cluster-check``: a table and an exit code, and no test is run."""

from __future__ import annotations

import pytest


@pytest.fixture
def suite(backends: pytest.Pytester) -> pytest.Pytester:
    backends.makepyfile("def test_x(): raise SystemExit('a test was run')")
    return backends


def test_all_backends_are_listed_and_any_that_answers_is_enough(suite: pytest.Pytester) -> None:
    result = suite.runpytest_inprocess("--cluster-check")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "backend     available  version * nodes  partitions",
            "local       yes        local * 1      -",
            "answering   yes        answering 1.0 * 2      main?, debug",
            "silent      no         sbatch-silent not found on PATH",
        ]
    )
    result.stdout.no_fnmatch_line("*test session starts*")
    assert not (suite.path / ".clusterjobs").exists()


@pytest.mark.parametrize(
    ("names", "code"), [("answering", 0), ("answering,local", 0), ("silent", 1), ("answering,silent", 1)]
)
def test_all_that_are_named_must_answer(suite: pytest.Pytester, names: str, code: int) -> None:
    result = suite.runpytest_inprocess("--cluster-check", f"--cluster={names}")
    assert result.ret == code
    rows = result.stdout.lines[1:][: len(names.split(","))]
    assert [line.split()[0] for line in rows] == names.split(",")
    told = [line for line in result.stdout.lines if line.startswith("local: ")]
    assert len(told) == names.count("local")
    assert all("cores a node" in line and "of memory" in line for line in told)


def test_none_that_answers_is_a_failure(suite: pytest.Pytester) -> None:
    assert suite.runpytest_inprocess("--cluster-check", "--cluster=silent", "--cluster=auto").ret == 1


def test_an_unknown_name_is_an_error_of_usage(suite: pytest.Pytester) -> None:
    result = suite.runpytest_inprocess("--cluster-check", "--cluster=slrum")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --cluster: no backend named 'slrum'*did you mean 'slurm'?"])
