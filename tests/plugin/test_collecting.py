"""Collection: ids, skips with their reasons, errors at wrong markers, and nothing started by looking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_clusterjobs.plugin.selection import NOT_ASKED, TOO_EXPENSIVE

SUITE = """
import pytest
from pytest_clusterjobs import cluster

@pytest.mark.real_world
def test_marked(): pass

@cluster
def test_decorated(): pass

@pytest.mark.cluster("silent", cores=2)
def test_pinned(): pass

@pytest.mark.no_cluster("local")
@pytest.mark.real_world
def test_excluding(): pass

@pytest.mark.expensive
@pytest.mark.real_world
def test_costly(): pass

def test_with_fixture(cluster_backend): pass

def test_plain(): pass
"""


@pytest.fixture
def suite(backends: pytest.Pytester) -> pytest.Pytester:
    backends.makepyfile(test_suite=SUITE)
    return backends


def ids(project: pytest.Pytester, *args: str) -> list[str]:
    lines = project.runpytest_inprocess("--collect-only", "-q", *args).stdout.lines
    return [line.partition("::")[2] for line in lines if "::" in line]


def outcomes(project: pytest.Pytester, *args: str) -> dict[str, str]:
    """Run, and give each test's outcome with its reason."""
    path = project.path.parent / f"{project.path.name}.json"
    project.runpytest_inprocess(f"--cluster-report={path}", *args)
    tests = json.loads(path.read_text())["tests"]
    return {test["nodeid"].partition("::")[2]: f"{test['outcome']} {test['reason'] or ''}".strip() for test in tests}


def test_plain_pytest_skips_cluster_tests_and_says_how_to_run_them(suite: pytest.Pytester) -> None:
    found = outcomes(suite)
    assert found == {
        "test_marked": f"skipped {NOT_ASKED}",
        "test_decorated": f"skipped {NOT_ASKED}",
        "test_pinned": f"skipped {NOT_ASKED}",
        "test_excluding": f"skipped {NOT_ASKED}",
        "test_costly": f"skipped {NOT_ASKED}",
        "test_with_fixture": "passed",
        "test_plain": "passed",
    }


def test_the_mark_selects_decorated_and_pinned_tests_too(suite: pytest.Pytester) -> None:
    assert ids(suite, "-m", "real_world") == [
        "test_marked",
        "test_decorated",
        "test_pinned",
        "test_excluding",
        "test_costly",
    ]
    assert ids(suite, "-m", "not real_world") == ["test_with_fixture", "test_plain"]


@pytest.mark.parametrize("folder", [".", "deeper"])
@pytest.mark.parametrize(
    ("options", "marked", "pinned"),
    [
        ((), f"skipped {NOT_ASKED}", f"skipped {NOT_ASKED}"),
        (("-m", "real_world"), "passed", "skipped silent: sbatch-silent not found on PATH"),
        (("--cluster=local",), "passed", "skipped pinned to silent; try --cluster=silent"),
    ],
    ids=["plain", "mark", "named"],
)
def test_marks_that_a_conftest_adds_count_like_others(
    backends: pytest.Pytester, folder: str, options: tuple[str, ...], marked: str, pinned: str
) -> None:
    """As in a suite whose conftest marks all tests of a folder."""
    path = backends.path / folder
    path.mkdir(exist_ok=True)
    with (path / "conftest.py").open("a") as file:
        file.write("""
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.real_world if item.name == "test_marked" else pytest.mark.cluster("silent"))
""")
    (path / "test_added.py").write_text("def test_marked(): pass\ndef test_pinned(): pass\n")
    assert outcomes(backends, *options) == {"test_marked": marked, "test_pinned": pinned}


def test_the_mark_runs_on_the_default_and_skips_what_does_not_answer(suite: pytest.Pytester) -> None:
    assert outcomes(suite, "-m", "real_world") == {
        "test_marked": "passed",
        "test_decorated": "passed",
        "test_pinned": "skipped silent: sbatch-silent not found on PATH",
        "test_excluding": "skipped not for local (no_cluster); name another backend with --cluster",
        "test_costly": f"skipped {TOO_EXPENSIVE}",
    }


def test_an_expression_that_means_something_else_does_not_ask(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_suite="import pytest\npytestmark = [pytest.mark.real_world, pytest.mark.slow]\ndef test_x(): 0"
    )
    assert outcomes(suite, "-m", "slow") == {"test_x": f"skipped {NOT_ASKED}"}
    assert outcomes(suite, "-m", "slow or real_world") == {"test_x": "passed"}


def test_the_default_comes_from_the_ini_file(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nclusterjobs_default = silent")
    found = outcomes(suite, "-m", "real_world")
    assert found["test_marked"] == "skipped silent: sbatch-silent not found on PATH"


def test_a_named_backend_leaves_ids_alone_and_skips_the_others_pins(suite: pytest.Pytester) -> None:
    assert outcomes(suite, "--cluster=local") == {
        "test_marked": "passed",
        "test_decorated": "passed",
        "test_pinned": "skipped pinned to silent; try --cluster=silent",
        "test_excluding": "skipped not for local (no_cluster)",
        "test_costly": f"skipped {TOO_EXPENSIVE}",
        "test_with_fixture": "passed",
        "test_plain": "passed",
    }


def test_a_named_backend_that_is_not_there_is_an_error_without_traceback(suite: pytest.Pytester) -> None:
    result = suite.runpytest_inprocess("--cluster=silent")
    result.assert_outcomes(errors=5, skipped=1, passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_marked*", "silent: sbatch-silent not found on PATH", "*ERROR at setup of *"]
    )
    result.stdout.fnmatch_lines(["  cluster trouble 5: silent: sbatch-silent not found on PATH"])


def test_missing_skip_turns_the_error_into_a_skip(suite: pytest.Pytester) -> None:
    result = suite.runpytest_inprocess("--cluster=silent", "--cluster-missing=skip", "-rs")
    result.assert_outcomes(skipped=6, passed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["SKIPPED*silent: sbatch-silent not found on PATH"])


def test_several_backends_parametrize_with_their_names(suite: pytest.Pytester) -> None:
    # pytest 8 and 9 order the parameters of a session-wide fixture differently.
    assert sorted(ids(suite, "--cluster=answering", "--cluster=silent,answering")) == sorted(
        [
            "test_marked[answering]",
            "test_decorated[answering]",
            "test_excluding[answering]",
            "test_costly[answering]",
            "test_with_fixture[answering]",
            "test_marked[silent]",
            "test_decorated[silent]",
            "test_pinned[silent]",
            "test_excluding[silent]",
            "test_costly[silent]",
            "test_with_fixture[silent]",
            "test_plain",
        ]
    )


def test_all_and_auto_skip_what_does_not_answer_with_the_reason(suite: pytest.Pytester) -> None:
    everything = outcomes(suite, "--cluster=all", "-k", "marked or pinned")
    assert everything["test_marked[answering]"] == "passed"
    assert everything["test_marked[silent]"] == "skipped silent: sbatch-silent not found on PATH"
    answering = outcomes(suite, "--cluster=auto", "-k", "marked or pinned")
    assert answering["test_marked[answering]"] == "passed"
    assert "test_marked[silent]" not in answering
    assert answering["test_pinned"] == "skipped silent: sbatch-silent not found on PATH"


def test_a_name_beside_all_is_still_required(suite: pytest.Pytester) -> None:
    found = outcomes(suite, "--cluster=silent,all", "-k", "test_marked")
    assert (found["test_marked[silent]"], found["test_marked[local]"]) == (
        "error silent: sbatch-silent not found on PATH",
        "passed",
    )


def test_parameters_combine_with_the_tests_own(backends: pytest.Pytester) -> None:
    backends.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        pytestmark = pytest.mark.cluster("local", "answering")

        class TestClass:
            @pytest.mark.parametrize("number", [1, 2])
            def test_method(self, number, cluster_backend):
                assert cluster_backend.name in ("local", "answering")

            @pytest.mark.parametrize("number", [3])
            @cluster
            def test_body(self, number):
                assert number == 3
        """
    )
    assert ids(backends, "--cluster=all") == [
        "TestClass::test_method[local-1]",
        "TestClass::test_method[local-2]",
        "TestClass::test_body[local-3]",
        "TestClass::test_method[answering-1]",
        "TestClass::test_method[answering-2]",
        "TestClass::test_body[answering-3]",
    ]
    backends.runpytest_inprocess("--cluster=local,answering").assert_outcomes(passed=6)


def test_a_test_may_parametrize_the_fixture_itself(backends: pytest.Pytester) -> None:
    backends.makepyfile(
        """
        import pytest

        @pytest.mark.real_world
        @pytest.mark.parametrize("cluster_backend", ["answering"], indirect=True)
        def test_own(cluster_backend):
            assert cluster_backend.name == "answering"
        """
    )
    backends.runpytest_inprocess("-m", "real_world").assert_outcomes(passed=1)
    backends.runpytest_inprocess("--cluster=local,answering").assert_outcomes(passed=1)


class TestMatrix:
    def steps(self, project: pytest.Pytester, *options: str) -> list[tuple[str, str]]:
        result = project.runpytest_inprocess("--collect-only", "--cluster-matrix=out.json", *options)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["clusterjobs: a matrix of * steps: */out.json"])
        steps = json.loads((project.path / "out.json").read_text())["include"]
        return [(step["cluster"], step["test"]) for step in steps]

    def test_it_has_each_test_once_for_each_place_where_it_would_run(self, suite: pytest.Pytester) -> None:
        found = self.steps(suite, "-m", "real_world", "--cluster=local,silent")
        assert sorted((place, test.partition("::")[2]) for place, test in found) == [
            ("local", "test_decorated"),
            ("local", "test_marked"),
            ("silent", "test_decorated"),
            ("silent", "test_excluding"),
            ("silent", "test_marked"),
            ("silent", "test_pinned"),
        ]

    def test_each_step_runs_one_test(self, backends: pytest.Pytester) -> None:
        backends.makepyfile(
            """
            import pytest

            pytestmark = pytest.mark.real_world

            def test_alone(cluster_backend): pass

            @pytest.mark.parametrize("text", ["a-[b]", "answering", "local-1"])
            def test_with_parameters(text): pass

            @pytest.mark.parametrize("cluster_backend", ["answering"], indirect=True)
            def test_own(cluster_backend): pass

            @pytest.mark.cluster("local")
            def test_pinned(cluster_backend): pass
            """
        )
        steps = self.steps(backends, "--cluster=local,answering")
        assert len(steps) == 10
        for place, test in steps:
            backends.runpytest_inprocess(f"--cluster={place}", test).assert_outcomes(passed=1)
        assert ("local", "test_each_step_runs_one_test.py::test_pinned") in self.steps(backends, "-m", "real_world")

    def test_one_of_nothing_says_what_to_write(self, suite: pytest.Pytester) -> None:
        result = suite.runpytest_inprocess("--collect-only", "--cluster-matrix=out.json", "-k", "test_marked")
        result.stdout.fnmatch_lines(["clusterjobs: a matrix of 0 steps: */out.json; name places with --cluster, *"])
        assert json.loads((suite.path / "out.json").read_text()) == {"include": []}

    def test_it_is_for_collecting_only(self, suite: pytest.Pytester) -> None:
        result = suite.runpytest_inprocess("--cluster=local", "--cluster-matrix=out.json")
        result.stderr.fnmatch_lines(["ERROR: --cluster-matrix: it is written *; add --collect-only"])
        assert result.ret == pytest.ExitCode.USAGE_ERROR

    def test_it_cannot_be_written(self, suite: pytest.Pytester) -> None:
        result = suite.runpytest_inprocess("--collect-only", "--cluster=local", "--cluster-matrix=no/where.json")
        result.stderr.fnmatch_lines(["ERROR: --cluster-matrix: cannot write *no/where.json: No such file or directory"])


def test_tests_pinned_to_different_backends_share_a_session(backends: pytest.Pytester) -> None:
    """The fixture is session-scoped: without a parameter the second test would see the first one's backend."""
    backends.makepyfile(
        """
        import pytest

        @pytest.mark.real_world
        def test_default(cluster_backend):
            assert cluster_backend.name == "local"

        @pytest.mark.cluster("answering")
        def test_pinned(cluster_backend):
            assert cluster_backend.name == "answering"

        @pytest.mark.cluster("silent", "answering")
        def test_first_that_answers(cluster_backend):
            assert cluster_backend.name == "answering"
        """
    )
    backends.runpytest_inprocess("-m", "real_world").assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('cluster("slrum")', "no backend named 'slrum'; known: *did you mean 'slurm'?"),
        ("cluster(corse=2)", "no argument 'corse' *did you mean 'cores'?*"),
        ("cluster(cores=0)", "cores=0 must be 1 or more"),
        ("no_cluster()", "name the backends *"),
        ('cluster_xfail("local")', "'local' must map backends to reasons*"),
        ("real_world(3)", "real_world() takes 0 positional arguments but 1 was given"),
    ],
)
def test_a_wrong_marker_is_an_error_of_its_module(project: pytest.Pytester, marker: str, message: str) -> None:
    name = marker.partition("(")[0]
    project.makepyfile(f"import pytest\n@pytest.mark.{marker}\ndef test_x(): pass\ndef test_y(): pass")
    result = project.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*ERROR collecting *", f"*.py::test_x: @pytest.mark.{name}: {message}"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_wrong_marker_on_a_parameter_names_the_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.cluster("slrum"))])
        def test_x(x): pass
        """
    )
    result = project.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *::test_x?1?: @pytest.mark.cluster: no backend named 'slrum'*"])


def test_a_decorator_that_contradicts_its_marker_is_refused(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        @pytest.mark.cluster("slurm")
        @cluster(backend="local")
        def test_x(): pass
        """
    )
    project.runpytest_inprocess().stdout.fnmatch_lines(["*test_x: @cluster(backend='local') and * contradict*"])


def test_a_submission_while_collecting_is_refused(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from pytest_clusterjobs import cluster

        @cluster
        def double(x): return 2 * x

        VALUE = double(3)

        def test_x(): pass
        """
    )
    result = project.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*VALUE = double(3)", "E  *pytest is collecting: *call it inside a test or fixture"])
    assert not (project.path / ".clusterjobs").exists()


def test_a_submission_in_a_conftest_is_refused(project: pytest.Pytester) -> None:
    project.makeconftest("from pytest_clusterjobs import cluster\nVALUE = cluster(len).submit('abc')\n")
    result = project.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*UsageError: pytest is collecting: *"])


@pytest.mark.parametrize("args", [("--collect-only",), ("--help",), ("--fixtures",), ()])
def test_looking_starts_nothing(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: tuple[str, ...]
) -> None:
    calls = tmp_path / "calls"
    monkeypatch.setenv("CALLS", str(calls))
    if args:
        monkeypatch.setenv("CLUSTERJOBS_CLUSTER", "auto,silent")
    suite.runpytest_inprocess(*args)
    assert not calls.exists()
    assert not (suite.path / ".clusterjobs").exists()


def test_a_backend_is_probed_once_a_run(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    suite.runpytest_inprocess("--cluster=answering,silent", "--run-expensive")
    assert sorted((tmp_path / "calls").read_text().split()) == ["answering", "silent"]


def test_what_the_backend_lacks_skips_with_what_it_has(backends: pytest.Pytester) -> None:
    backends.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        @cluster(gpus=2)
        def test_gpus(): pass

        @pytest.mark.cluster(nodes=3)
        def test_nodes(): pass

        @pytest.mark.cluster(partition="main")
        @cluster(partition="gpu")
        def test_partition(): pass

        @pytest.mark.cluster(gpus=1, nodes=1)
        def test_fits(): pass
        """
    )
    assert outcomes(backends, "--cluster=answering") == {
        "test_gpus": "skipped answering has 1 GPU; the test asks for 2",
        "test_nodes": "skipped answering has 2 nodes; the test asks for 3",
        "test_partition": "skipped answering has no partition 'gpu'; there are: main, debug",
        "test_fits": "passed",
    }
