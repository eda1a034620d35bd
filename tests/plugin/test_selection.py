"""Which test runs where: the table of the design, without a pytest around it."""

from __future__ import annotations

import pytest

from pytest_clusterjobs.backends.base import BackendInfo, Partition
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.plugin.marks import ClusterMarks
from pytest_clusterjobs.plugin.selection import (
    ASKED_NONE,
    ASKING_MARKS,
    NOT_ASKED,
    TOO_EXPENSIVE,
    Plan,
    Selection,
    asks,
    lacking,
    mentions,
    parameters,
    plan,
    resolve,
)
from pytest_clusterjobs.plugin.values import Values

GENERIC = ClusterMarks(is_cluster_test=True)
REAL = {"expression": "real_world", "own": {"real_world"}}
KNOWN = ("local", "slurm", "pbs")


def values(*words: str, missing: str = "error", default: str = "local") -> Values:
    return Values(cluster=words, cluster_source="--cluster" if words else "", default=default, missing=missing)


def select(*words: str, missing: str = "error", silent: tuple[str, ...] = ()) -> Selection:
    return resolve(values(*words, missing=missing), KNOWN, lambda name: f"no {name} here" if name in silent else "")


@pytest.mark.parametrize(
    ("expression", "own", "expected"),
    [
        ("real_world", {"real_world"}, True),
        ("cluster", {"real_world", "cluster"}, True),
        ("expensive", {"real_world", "expensive"}, True),
        ("real_world and not slow", {"real_world"}, True),
        ("real_world and gpu", {"real_world", "gpu"}, True),
        ("real_world or slow", {"real_world", "slow"}, True),
        ("(real_world and gpu) or slow", {"real_world", "gpu", "slow"}, True),
        ("not (not real_world)", {"real_world"}, True),
        ("not real_world", {"real_world"}, False),
        ("not real_world", set(), False),
        ("slow", {"real_world", "slow"}, False),
        ("not slow", {"real_world"}, False),
        ("slow or (real_world and gpu)", {"real_world", "slow"}, False),
        ("", {"real_world"}, False),
        ("real_world and", {"real_world"}, False),
    ],
)
def test_an_expression_asks_when_the_mark_makes_the_difference(expression: str, own: set[str], expected: bool) -> None:
    assert asks(expression, ASKING_MARKS, own) is expected


def test_many_marks_on_one_test_are_decided_at_once() -> None:
    own = {"real_world", *(f"m{number}" for number in range(200))}
    assert asks(" or ".join(sorted(own)), ASKING_MARKS, own)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("real_world", True),
        ("real_world and gpu and not slow", True),
        ("not real_world", False),
        ("slow", False),
        ("", False),
    ],
)
def test_the_header_appears_when_an_expression_can_ask(expression: str, expected: bool) -> None:
    assert mentions(expression, ASKING_MARKS) is expected


def test_named_backends_are_required_in_the_order_they_were_named() -> None:
    assert select("slurm", "local") == Selection(("slurm", "local"), frozenset({"slurm", "local"}))


def test_missing_skip_requires_none() -> None:
    assert select("slurm", missing="skip").required == frozenset()


def test_auto_means_those_that_answer_and_keeps_the_others_reasons() -> None:
    selection = select("auto", silent=("slurm",))
    assert (selection.names, selection.absent) == (("local", "pbs"), {"slurm": "no slurm here"})
    assert selection.is_parametrized


def test_all_asks_nobody_beforehand() -> None:
    assert select("all", silent=KNOWN).names == KNOWN


def test_a_name_beside_auto_is_required_and_first() -> None:
    selection = select("pbs", "auto", silent=("pbs", "slurm"))
    assert (selection.names, selection.required) == (("pbs", "local"), frozenset({"pbs"}))


def test_one_named_backend_leaves_ids_alone() -> None:
    assert parameters(GENERIC, select("slurm"), uses_fixtures=True) == ()


def test_several_backends_parametrize_cluster_tests_and_users_of_fixtures_only() -> None:
    selection = select("slurm", "local")
    assert parameters(GENERIC, selection, uses_fixtures=False) == ("slurm", "local")
    assert parameters(ClusterMarks(), selection, uses_fixtures=True) == ("slurm", "local")
    assert parameters(ClusterMarks(), selection, uses_fixtures=False) == ()


def test_markers_narrow_the_parameters() -> None:
    selection = select("slurm", "local", "pbs")
    pinned = GENERIC._replace(pins=("pbs", "slurm"))
    excluding = GENERIC._replace(excluded=frozenset({"local"}))
    assert parameters(pinned, selection, uses_fixtures=False) == ("slurm", "pbs")
    assert parameters(excluding, selection, uses_fixtures=False) == ("slurm", "pbs")


def test_a_pinned_user_of_the_fixture_is_told_apart_without_an_option() -> None:
    assert parameters(GENERIC._replace(pins=("slurm",)), select(), uses_fixtures=True) == ("slurm",)


def test_nothing_asked_skips_and_says_how_to_ask() -> None:
    assert plan(GENERIC, select()) == Plan(skip=NOT_ASKED)


def test_none_skips_even_what_the_expression_asks_for() -> None:
    assert plan(GENERIC, select("none"), **REAL) == Plan(skip=ASKED_NONE)  # type: ignore[arg-type]


def test_the_mark_alone_runs_on_the_default_and_does_not_require_it() -> None:
    selection = resolve(values(default="slurm"), KNOWN, lambda name: "")
    assert plan(GENERIC, selection, **REAL) == Plan(("slurm",))  # type: ignore[arg-type]


def test_the_mark_alone_runs_a_pinned_test_on_its_own_backends() -> None:
    pinned = GENERIC._replace(pins=("slurm", "pbs"))
    assert plan(pinned, select(), **REAL) == Plan(("slurm", "pbs"))  # type: ignore[arg-type]


def test_the_default_can_be_excluded() -> None:
    excluding = GENERIC._replace(excluded=frozenset({"local"}))
    assert plan(excluding, select(), **REAL).skip.startswith("not for local (no_cluster)")  # type: ignore[arg-type]


def test_a_pin_elsewhere_says_how_to_run_it() -> None:
    pinned = GENERIC._replace(pins=("slurm", "pbs"))
    assert plan(pinned, select("local")).skip == "pinned to slurm or pbs; try --cluster=slurm,pbs"


def test_a_pin_to_a_backend_that_auto_found_silent_says_why() -> None:
    pinned = GENERIC._replace(pins=("slurm",))
    assert plan(pinned, select("auto", silent=("slurm",))).skip == "slurm: no slurm here"


def test_the_parameter_decides_among_several() -> None:
    assert plan(GENERIC, select("slurm", "local"), parameter="local") == Plan(("local",), is_required=True)


def test_an_unmarked_user_of_fixtures_is_never_skipped() -> None:
    assert plan(ClusterMarks(), select(), uses_fixtures=True) == Plan(("local",))
    assert plan(ClusterMarks(), select("none"), uses_fixtures=True) == Plan(("local",))
    assert plan(ClusterMarks(), select("slurm"), uses_fixtures=True) == Plan(("slurm",), is_required=True)


@pytest.mark.parametrize(
    ("expression", "runs_expensive", "skip"),
    [
        ("real_world", False, TOO_EXPENSIVE),
        ("real_world", True, ""),
        ("real_world and expensive", False, ""),
        ("expensive", False, ""),
    ],
)
def test_expensive_needs_its_option_or_its_name(expression: str, runs_expensive: bool, skip: str) -> None:
    costly = GENERIC._replace(is_expensive=True)
    own = {"real_world", "expensive"}
    planned = plan(costly, select(), expression=expression, own=own, runs_expensive=runs_expensive)
    assert planned.skip == skip


def test_an_expensive_test_of_no_cluster_needs_it_too() -> None:
    costly = ClusterMarks(is_expensive=True)
    assert plan(costly, select()).skip == TOO_EXPENSIVE
    assert plan(costly, select(), runs_expensive=True) == Plan()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"gpus": 1}, ""),
        ({"gpus": 2}, "slurm has 1 GPU; the test asks for 2"),
        ({"gpus": 1, "nodes": 2}, "slurm has 1 GPU; the test asks for 2"),
        ({"nodes": 2}, ""),
        ({"nodes": 3}, "slurm has 2 nodes; the test asks for 3"),
        ({"partition": "main"}, ""),
        ({"partition": "gpu,main"}, ""),
        ({"partition": "gpu"}, "slurm has no partition 'gpu'; there are: main, debug"),
    ],
)
def test_what_the_probe_knows_to_be_missing(asked: dict[str, object], expected: str) -> None:
    info = BackendInfo("slurm 24.11", nodes=2, gpus=1, partitions=(Partition("main"), Partition("debug")))
    assert lacking("slurm", make_spec(**asked), info) == expected


def test_what_the_probe_does_not_know_is_not_missing() -> None:
    assert lacking("slurm", make_spec(gpus=8, nodes=90, partition="x"), BackendInfo("slurm 24.11")) == ""


def test_a_cluster_without_gpus_says_so() -> None:
    assert lacking("slurm", make_spec(gpus=1), BackendInfo("slurm", gpus=0)) == "slurm has no GPU; the test asks for 1"
