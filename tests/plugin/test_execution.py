"""The body of a decorated test is a job, and what happens in it looks as if it had happened here. Real local jobs."""

from __future__ import annotations

import pytest


def run(project: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    project.makepyfile(
        test_body="import os, sys, warnings\nimport pytest\nfrom pytest_clusterjobs import cluster\n" + source
    )
    return project.runpytest_inprocess("--cluster=local", *args)


def test_the_body_runs_elsewhere_with_the_values_of_its_fixtures(project: pytest.Pytester) -> None:
    run(
        project,
        f"""
@pytest.fixture
def numbers(): return [1, 2, 3]

class TestClass:
    offset = 10

    @pytest.mark.parametrize("factor", [2, 3])
    @cluster(cores=1)
    def test_method(self, numbers, factor, tmp_path):
        assert os.getpid() != {__import__("os").getpid()}
        assert sum(numbers) * factor + self.offset in (22, 28)
        assert tmp_path.is_dir()

@cluster
async def test_coroutine(numbers):
    assert numbers == [1, 2, 3]
""",
    ).assert_outcomes(passed=3)


def test_outcomes_of_pytest_come_through(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
@cluster
def test_skip(): pytest.skip("no data here")

@cluster
def test_xfail(): pytest.xfail("known there")

@pytest.mark.xfail(reason="marked", raises=ZeroDivisionError)
@cluster
def test_marked(): 1 / 0

@cluster
def test_raises():
    with pytest.raises(ValueError, match="boo"):
        raise ValueError("boo")
    with pytest.warns(UserWarning):
        warnings.warn("expected", UserWarning)

@cluster
def test_fail(): pytest.fail("on purpose")

@cluster
def test_importorskip(): pytest.importorskip("surely_not_installed")
""",
        "-rsxf",
    )
    result.assert_outcomes(passed=1, skipped=2, xfailed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">   def test_fail(): pytest.fail(?on purpose?)",
            "E   Failed: on purpose",
            "test_body.py:23: Failed",
            "SKIPPED*test_body.py:6: no data here",
            "XFAIL*known there",
            "XFAIL*marked",
            "FAILED*on purpose",
        ]
    )


def test_a_failed_assert_shows_the_source_and_the_values(project: pytest.Pytester) -> None:
    result = run(project, "@cluster\ndef test_equal():\n    found = [1, 2, 3]\n    assert found == [1, 2, 4]\n")
    result.stdout.fnmatch_lines(
        [
            "    @cluster",
            "    def test_equal():",
            "        found = ?1, 2, 3?",
            ">       assert found == ?1, 2, 4?",
            "E       assert ?1, 2, 3? == ?1, 2, 4?",
            "E         At index 2 diff: 3 != 4",
            "test_body.py:7: AssertionError",
        ]
    )


def test_output_is_captured_as_if_printed_here(project: pytest.Pytester) -> None:
    source = (
        '@cluster\ndef test_loud():\n    print("to stdout")\n    print("to stderr", file=sys.stderr)\n    assert 0\n'
    )
    result = run(project, source)
    result.stdout.fnmatch_lines(["*Captured stdout call*", "to stdout", "*Captured stderr call*", "to stderr"])
    text = result.stdout.str()
    assert "Traceback" not in text.partition("Captured stderr call")[2].partition("----")[0]
    assert "to stdout" not in run(project, source.replace("assert 0", "pass")).stdout.str()
    run(project, source.replace("assert 0", "pass"), "-s").stdout.fnmatch_lines(["*to stdout"])


def test_warnings_arrive_with_their_place(project: pytest.Pytester) -> None:
    source = '@cluster\ndef test_careful():\n    warnings.warn("careful", UserWarning)\n'
    result = run(project, source, "-Wdefault")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*test_body.py:6: UserWarning: careful"])
    result = run(project, source, "-Werror")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['>   warnings.warn("careful", UserWarning)', "test_body.py:6: UserWarning"])


def test_a_value_that_is_returned_is_warned_of(project: pytest.Pytester) -> None:
    result = run(project, "@cluster\ndef test_value():\n    return 3\n", "-Wdefault")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*PytestReturnNotNoneWarning: *test_value returned <class 'int'>."])


def test_a_fixture_that_cannot_travel_is_named_before_anything_is_submitted(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
@pytest.fixture
def db():
    import threading
    return threading.Lock()

@cluster
def test_needs(db): pass

@pytest.mark.parametrize("handle", [sys.stdout])
@cluster
def test_parameter(handle): pass
""",
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            ">   def test_needs(db): pass",
            "E   *PayloadError: test_needs: fixture 'db' (lock) cannot be sent to the node: *",
            ">   def test_parameter(handle): pass",
            "E   *PayloadError: test_parameter: parameter 'handle' (*) cannot be sent to the node: *",
        ]
    )
    result.stdout.no_fnmatch_line("*direct cause*")


@pytest.mark.parametrize(
    ("fixture", "instead"),
    [
        ("capsys", "contextlib.redirect_stdout in the body"),
        ("caplog", "a logging.Handler in the body"),
        ("recwarn", "pytest.warns in the body"),
        ("request", "a fixture that takes from it"),
        ("record_property", "a decorated function that returns the value"),
        ("cluster_performance", "a decorated function that returns the value"),
        ("cluster_jobs", "decorated functions, and call them here"),
        pytest.param(
            "subtests",
            "pytest.mark.parametrize",
            marks=pytest.mark.skipif(pytest.version_tuple < (9,), reason="new in 9"),
        ),
    ],
)
def test_a_fixture_that_acts_on_this_process_is_refused_with_what_to_take_instead(
    project: pytest.Pytester, fixture: str, instead: str
) -> None:
    """A copy of recwarn saw no warning, one of cluster_performance lost its figures; others' words were pickle's."""
    result = run(project, f"@cluster\ndef test_bound({fixture}): pass\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E   *PayloadError: test_bound: fixture {fixture!r} works in * Take {instead}*"])
    result.stdout.fnmatch_lines(["local: 1 ran, 1 failed"])


def test_a_work_directory_that_cannot_be_made_is_told_in_one_line_with_what_to_do(project: pytest.Pytester) -> None:
    """Each test showed fifty lines of pytest's own code, and nothing said how to name another directory."""
    project.makefile("", blocked="a file")
    result = run(project, "@cluster\ndef test_x(): pass\n", "--cluster-workdir=blocked")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_x*",
            "cannot make the directory */blocked: File exists; name another work directory with --cluster-workdir or *",
            "  cluster trouble 1: *cannot make the directory*",
        ],
        consecutive=False,
    )
    result.stdout.no_fnmatch_line("*capture.py*")


def test_conditions_that_are_texts_are_evaluated_in_the_tests_module(project: pytest.Pytester) -> None:
    """Each such test was an error: a decorated test had no globals."""
    result = run(
        project,
        """
HERE = True

@pytest.mark.skipif("HERE")
@cluster
def test_skipped(): pass

@pytest.mark.xfail("not HERE", reason="no")
@cluster
def test_passes(): pass

class TestMethod:
    @pytest.mark.xfail("HERE", reason="yes")
    @cluster
    def test_fails(self): assert 0
""",
    )
    result.assert_outcomes(skipped=1, passed=1, xfailed=1)


def test_marks_above_the_decorator_of_a_method_count(project: pytest.Pytester) -> None:
    """They were lost: an expensive method ran, one that is pinned to a cluster ran elsewhere, a skipped one ran."""
    result = run(
        project,
        """
class TestMethods:
    @pytest.mark.expensive
    @cluster
    def test_costs(self): assert 0

    @pytest.mark.cluster("slurm")
    @cluster
    def test_pinned(self): assert 0

    @pytest.mark.skip(reason="not now")
    @cluster
    def test_skipped(self): assert 0

    @pytest.mark.xfail(reason="known")
    @cluster
    def test_expected(self): assert 0

    @pytest.mark.parametrize("number", [1, 2])
    @cluster
    def test_parameters(self, number): assert number
""",
    )
    result.assert_outcomes(passed=2, skipped=3, xfailed=1)


@pytest.mark.parametrize(
    "options", [[], ["-v"], ["-vv"], ["-o", "verbosity_assertions=2"]], ids=["usual", "v", "vv", "assertions"]
)
def test_a_failing_assert_says_as_much_as_one_here(project: pytest.Pytester, options: list[str]) -> None:
    """It ended with "Use -v to get more diff", however often that was given."""
    source = "    found = {'x': [1, 2, 3], 'y': 'long' * 30}\n    assert found == {'x': [1, 2, 4], 'y': 'long' * 30}\n"
    result = run(project, f"def test_here():\n{source}\n@cluster\ndef test_there():\n{source}", *options)
    result.assert_outcomes(failed=2)
    told = [line for line in result.outlines if line.startswith("E  ")]
    assert len(told) > 4
    assert told[: len(told) // 2] == told[len(told) // 2 :]


def test_a_wait_that_something_else_ends_cancels_its_job(project: pytest.Pytester) -> None:
    """As after pytest-timeout: the job went on, and the tests after it waited for its cores."""
    result = run(
        project,
        """
import signal, time

@pytest.fixture
def limit():
    def end(number, frame): pytest.fail("too long")
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    yield
    signal.signal(signal.SIGALRM, before)

@cluster(cores=1)
def linger(): time.sleep(100)

@pytest.mark.real_world
def test_call(limit): linger()

@pytest.mark.usefixtures("limit")
@cluster(cores=1)
def test_body(): time.sleep(100)

@pytest.mark.real_world
def test_neither_goes_on():
    deadline = time.monotonic() + 20
    while states() != ["CANCELLED", "CANCELLED"]:
        assert time.monotonic() < deadline, states()
        time.sleep(0.02)

def states():
    from pytest_clusterjobs.engine.current import current
    return [record.state for record in current().records]
""",
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines([">   def test_body(): time.sleep(100)", "E   Failed: too long"])


def test_a_test_of_hypothesis_is_refused_with_what_to_do(project: pytest.Pytester) -> None:
    """It could not be sent, for a variable of Hypothesis's own that nobody knows."""
    source = "def test_given(): pass\ntest_given.is_hypothesis_test = True\ntest_given = cluster(test_given)\n"
    result = run(project, source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*@cluster cannot run a test of Hypothesis as a job; leave it undecorated*"])


def test_an_own_fixture_with_the_name_of_pytest_s_travels(project: pytest.Pytester) -> None:
    source = "@pytest.fixture\ndef cache(): return {1: 2}\n@cluster\ndef test_own(cache): assert cache == {1: 2}\n"
    run(project, source).assert_outcomes(passed=1)


def test_a_job_without_an_exception_of_its_own_is_shown_at_the_tests_head(project: pytest.Pytester) -> None:
    result = run(
        project, "@pytest.mark.filterwarnings('error')\n@cluster\ndef test_killed():\n    os.kill(os.getpid(), 9)\n"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [">   def test_killed():", "E   *JobFailed: cj-*test_killed was ended by signal SIGKILL (9)"]
    )
    result.stdout.no_fnmatch_line("*tracebackhide*")


def test_a_method_of_a_testcase_is_refused_clearly(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
import unittest

@cluster
def helper(x): return x + 1

class TestOld(unittest.TestCase):
    @cluster
    def test_method(self): pass

    def test_helper(self):
        assert helper(1) == 2
""",
    )
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(
        ["*TestOld::test_method: @cluster cannot run a method of a unittest.TestCase*plain class*"]
    )


def test_markers_lie_under_the_decorator(project: pytest.Pytester) -> None:
    run(
        project,
        """
@cluster(memory="1GB")
def helper(): pass

@pytest.mark.cluster(cores=2, memory="2GB", env={"FROM": "marker"})
def test_helper(cluster_jobs):
    job = helper.submit()
    assert (job.record.spec.cores, job.record.spec.memory_bytes) == (2, 2**30)
    assert job.record.test_id == "test_body.py::test_helper"
    assert cluster_jobs.run("echo $FROM").stdout == "marker\\n"

@pytest.mark.cluster(env={"FROM": "marker"})
@cluster(cores=1)
def test_body():
    assert os.environ["FROM"] == "marker"
""",
    ).assert_outcomes(passed=2)


def test_calls_in_ordinary_tests_go_to_the_selected_backend(backends: pytest.Pytester) -> None:
    source = """
@cluster
def helper(): pass

def test_ordinary(request):
    record = helper.submit().record
    assert record.backend == request.config.getoption("--expected")
    assert record.test_id == "test_body.py::test_ordinary"
"""
    conftest = backends.path / "conftest.py"
    conftest.write_text(conftest.read_text() + "\ndef pytest_addoption(parser): parser.addoption('--expected')\n")
    backends.makepyfile(test_body="from pytest_clusterjobs import cluster\n" + source)
    for args in (
        ["--expected=local"],
        ["--cluster=none", "--expected=local"],
        ["--cluster=answering", "--expected=answering"],
    ):
        backends.runpytest_inprocess(*args).assert_outcomes(passed=1)


def test_a_first_call_inside_a_body_belongs_to_its_test(project: pytest.Pytester) -> None:
    """Nothing decorated is known when the tests are collected: the run is made in the middle of a test."""
    project.makepyfile(
        """
        def test_late():
            from pytest_clusterjobs import cluster
            job = cluster(len).submit("four")
            assert job.result() == 4
            assert job.record.test_id.endswith("::test_late")
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["local: 1 ran; 1 job*"])
    assert not (project.path / ".clusterjobs").exists()


def test_a_failure_expected_on_one_backend_is_an_xfail_there(backends: pytest.Pytester) -> None:
    backends.makepyfile(
        """
        import pytest

        @pytest.mark.cluster_xfail({"answering": "no arrays"}, raises=ZeroDivisionError)
        @pytest.mark.real_world
        def test_x(cluster_backend):
            assert cluster_backend.name == "local" or 1 / 0

        @pytest.mark.cluster_xfail({"answering": "strict"}, strict=True)
        @pytest.mark.real_world
        def test_strict(): pass
        """
    )
    result = backends.runpytest_inprocess("--cluster=local,answering", "-rxf")
    result.assert_outcomes(passed=2, xfailed=1, failed=1)
    result.stdout.fnmatch_lines(["XFAIL *test_x?answering? - no arrays", "FAILED *test_strict?answering?*"])
