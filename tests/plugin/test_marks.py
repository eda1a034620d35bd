"""What markers say, and that wrong ones are refused where they stand, with the right name beside the wrong."""

from __future__ import annotations

import pytest

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.plugin import marks
from pytest_clusterjobs.plugin.markers import LINES, NAMES


def said_by(*closest_first: pytest.MarkDecorator) -> marks.ClusterMarks:
    return marks.read([decorator.mark for decorator in closest_first], None, registry.require)


def test_a_test_without_our_markers_is_none_of_our_business() -> None:
    assert said_by(pytest.mark.slow) == marks.ClusterMarks()


def test_a_cluster_marker_makes_a_cluster_test_with_resources() -> None:
    found = said_by(pytest.mark.cluster("slurm", cores=2, memory="1GB"))
    assert (found.is_cluster_test, found.pins, found.resources) == (True, ("slurm",), {"cores": 2, "memory": "1GB"})


def test_the_closest_marker_wins_for_pins_and_for_each_resource() -> None:
    found = said_by(pytest.mark.cluster("local", cores=4), pytest.mark.cluster("slurm", cores=1, time="5m"))
    assert (found.pins, found.resources) == (("local",), {"cores": 4, "time": "5m"})


def test_a_marker_without_backends_leaves_the_outer_pins() -> None:
    assert said_by(pytest.mark.cluster(cores=4), pytest.mark.cluster("slurm")).pins == ("slurm",)


def test_backend_as_a_keyword_pins_too() -> None:
    assert said_by(pytest.mark.cluster(backend="slurm")).pins == ("slurm",)


def test_exclusions_add_up() -> None:
    assert said_by(pytest.mark.no_cluster("local"), pytest.mark.no_cluster("slurm")).excluded == {"local", "slurm"}


def test_the_closest_expected_failure_wins() -> None:
    found = said_by(
        pytest.mark.cluster_xfail({"slurm": "inner"}, raises=ValueError),
        pytest.mark.cluster_xfail({"slurm": "outer", "local": "outer"}),
    )
    assert found.expected_failures["slurm"] == marks.ExpectedFailure("inner", ValueError, None)
    assert found.expected_failures["local"].reason == "outer"


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        (pytest.mark.cluster("slrum"), r"@pytest.mark.cluster: no backend named 'slrum'.*did you mean 'slurm'\?"),
        (pytest.mark.cluster(corse=2), r"no argument 'corse'.*did you mean 'cores'\?"),
        (pytest.mark.cluster(cores=0), "cores=0 must be 1 or more"),
        (pytest.mark.cluster(memory="lots"), "memory='lots' is no memory size"),
        (pytest.mark.cluster(partition="a\n#SBATCH -A x"), "partition=.* must be one word"),
        (pytest.mark.cluster(["slurm"]), "must be the name of a backend"),
        (pytest.mark.no_cluster(), "name the backends"),
        (pytest.mark.no_cluster("lokal"), r"did you mean 'local'\?"),
        (pytest.mark.cluster_xfail("slurm"), "must map backends to reasons"),
        (pytest.mark.cluster_xfail({"slrum": "x"}), r"did you mean 'slurm'\?"),
        (pytest.mark.cluster_xfail({"slurm": "x"}, reason="y"), "unexpected keyword argument 'reason'"),
        (pytest.mark.real_world("x"), r"real_world\(\) takes 0 positional arguments but 1 was given"),
        (pytest.mark.expensive(cost=3), "unexpected keyword argument 'cost'"),
    ],
)
def test_wrong_arguments_are_refused(decorator: pytest.MarkDecorator, message: str) -> None:
    with pytest.raises(marks.MarkError, match=message):
        said_by(decorator)


def test_every_marker_is_documented_with_its_signature() -> None:
    assert {line.partition(":")[0].partition("(")[0] for line in LINES} == NAMES
