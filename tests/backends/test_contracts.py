"""What each backend promises a job and reads of what a job was told, on text alone. The lanes hold real ones to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Backend, BackendSettings
from pytest_clusterjobs.backends.pbs_text import counted_resources, parse_entries
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.transports.local import LocalTransport

if TYPE_CHECKING:
    from tests.pbs_recordings import recorded
else:
    from pbs_recordings import recorded


def backend(name: str, **options: str) -> Backend:
    return registry.create(name, LocalTransport(), BackendSettings(options=options))


def promised(name: str, native_id: str, **asked: Any) -> dict[str, str | None]:
    """Give the exact values in a contract."""
    contract = backend(name).expected_environment(native_id, "cj-x", make_spec(**asked))
    return {variable: expected.value for variable, expected in contract.items() if expected.value is not None}


@pytest.mark.parametrize("name", [name for name in registry.names() if name != "kubernetes"])
def test_every_contract_has_our_own_id_and_names_its_source(name: str) -> None:
    contract = backend(name).expected_environment("7", "cj-x", make_spec())
    assert contract["CLUSTERJOBS_NATIVE_ID"].value == "7"
    assert all(expected.source for expected in contract.values())


def test_pbs_promises_a_line_for_each_core_of_each_node() -> None:
    assert promised("pbs", "7.server", cores=2, nodes=3, queue="batch") == {
        "CLUSTERJOBS_NATIVE_ID": "7.server",
        "PBS_JOBID": "7.server",
        "PBS_JOBNAME": "cj-x",
        "PBS_O_QUEUE": "batch",
        "NCPUS": "2",
    }
    contract = backend("pbs").expected_environment("7.server", "cj-x", make_spec(cores=2, nodes=3))
    assert contract["PBS_NODEFILE"].lines == 6
    assert "PBS_O_QUEUE" not in contract


def test_pbs_promises_an_element_its_index() -> None:
    element = promised("pbs", "7[3].server")
    assert (element["PBS_JOBID"], element["PBS_ARRAY_INDEX"]) == ("7[3].server", "3")


def test_recorded_resources_of_pbs_are_of_one_node() -> None:
    (entry,) = parse_entries(recorded("01-running/08").stdout)
    assert counted_resources(entry.attributes) == Resources(1, 64 << 20, None, 1, 300.0, "workq")
    of_three = {"Resource_List.ncpus": "6", "Resource_List.nodect": "3", "Resource_List.mem": "3gb"}
    assert counted_resources(of_three) == Resources(2, 1 << 30, None, 3)
    assert counted_resources({"Resource_List.mem": "4mw", "Resource_List.walltime": "soon"}) == Resources()


def test_lsf_promises_slots_on_each_host() -> None:
    assert promised("lsf", "7[3]") == {
        "CLUSTERJOBS_NATIVE_ID": "7[3]",
        "LSB_JOBID": "7",
        "LSB_JOBINDEX": "3",
    }
    for native_id, told in (
        ("7[3]", {"cj-x[1-9]": True, "cj-x[1-9]%2": True, "cj-x[3]": True, "cj-x": False, "cj-y[1-9]": False}),
        ("7", {"cj-x": True, "cj-x[1-9]": False}),
    ):
        names = backend("lsf").expected_environment(native_id, "cj-x", make_spec())["LSB_JOBNAME"].pattern or ""
        assert {text: bool(re.fullmatch(names, text)) for text in told} == told
    assert promised("lsf", "7")["LSB_JOBINDEX"] == "0"
    contract = backend("lsf").expected_environment("7", "cj-x", make_spec(cores=2, nodes=2, queue="short,long"))
    hosts = contract["LSB_MCPU_HOSTS"].pattern or ""
    right = {text: bool(re.fullmatch(hosts, text)) for text in ("a 2 b 2", "a 2 b 2 ", "a 2", "a 1 b 3", "a 2 b 2 c 2")}
    assert [text for text, is_right in right.items() if is_right] == ["a 2 b 2", "a 2 b 2 "]
    queue = contract["LSB_QUEUE"].pattern or ""
    assert [bool(re.fullmatch(queue, name)) for name in ("short", "long", "short,long")] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "told", "resources"),
    [
        ("pbs", {"NCPUS": "4", "PBS_QUEUE": "workq"}, Resources(4, partition="workq")),
        ("pbs", {"NCPUS": "4", "PBS_QUEUE": "workq", "PBS_O_QUEUE": "workq"}, Resources(4, partition="workq")),
        ("pbs", {"NCPUS": "4", "PBS_QUEUE": "workq", "PBS_O_QUEUE": "route"}, Resources(4)),
        ("pbs", {"NCPUS": "many"}, Resources()),
        ("lsf", {"LSB_MCPU_HOSTS": "a 2 b 2 ", "LSB_QUEUE": "normal"}, Resources(2, nodes=2, partition="normal")),
        ("lsf", {"LSB_MCPU_HOSTS": "a"}, Resources()),
        ("ssh", {"SSH_CONNECTION": "::1 1 ::1 22"}, Resources()),
        ("local", {}, Resources()),
    ],
)
def test_what_a_job_was_told_is_read(name: str, told: dict[str, str], resources: Resources) -> None:
    assert backend(name).told_resources(told) == resources


def test_kubernetes_promises_its_namespace_in_a_variable_and_where_there_is_one_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    settings = BackendSettings(options={"namespace": "tests", "image": "python:3.13"})
    contract = registry.create("kubernetes", LocalTransport(), settings).expected_environment(
        "cj-x", "cj-x", make_spec()
    )
    assert contract["POD_NAMESPACE"].value == contract["namespace"].value == "tests"
    assert contract["namespace"].is_optional
    pod = contract["POD_NAME"].pattern or ""
    assert [bool(re.fullmatch(pod, name)) for name in ("cj-x-ab12c", "cj-x", "cj-y-ab12c")] == [True, False, False]
    assert contract["KUBERNETES_SERVICE_HOST"].value is None
