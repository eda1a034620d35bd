"""From a call or a command to an order on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.core.errors import PayloadError, SpecError
from pytest_clusterjobs.core.redaction import Secret
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.engine.store import Store
from pytest_clusterjobs.engine.work import (
    Work,
    command_work,
    describe_command,
    inherited_environment,
    name_of,
    prepare,
)
from pytest_clusterjobs.transports.local import LocalTransport


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(LocalTransport(), str(tmp_path / "work"), "0badcafe", "main", os.getpid())
    made.open()
    yield made
    made.close(keep=False)


def orders(store: Store, *works: Work, is_durable: bool = True) -> list[dict[str, Any]]:
    ids = [f"1.{index}" for index in range(len(works))]
    paths = prepare(store, works, ids, os.path.join(store.directory, "1-x"), is_durable=is_durable)
    made = [json.loads(Path(path, "order.json").read_text()) for path in paths]
    for order, path in zip(made, paths, strict=True):
        for part in ("function", "arguments"):
            if part in order:
                order[part]["path"] = os.path.normpath(os.path.join(path, order[part]["path"]))
    return made


def double(numbers: list[int]) -> list[int]:
    return [number * 2 for number in numbers]


# ---------------------------------------------------------------- commands


def test_text_goes_to_bash_and_words_stay_words() -> None:
    assert command_work("a | b", JobSpec()).argv == ("/bin/bash", "-c", "a | b")
    assert command_work(["a", "|", "b"], JobSpec()).argv == ("a", "|", "b")
    assert command_work(["cat", Path("/x")], JobSpec()).argv == ("cat", "/x")


@pytest.mark.parametrize(
    ("command", "label"), [("/bin/echo hi", "echo"), (["/usr/bin/python3", "x.py"], "python3"), ("make all", "make")]
)
def test_command_is_labelled_by_its_program(command: Any, label: str) -> None:
    assert command_work(command, JobSpec()).label == label
    assert command_work(command, JobSpec(), "mine").label == "mine"


@pytest.mark.parametrize("command", ["", " \n", [], [""], ["a", "b\0"], "a\0"])
def test_command_that_is_none_is_refused(command: Any) -> None:
    with pytest.raises(SpecError, match=r"empty|NUL"):
        command_work(command, JobSpec())


@pytest.mark.parametrize("text", ["curl -u me:of-nobody-0817 host", "of-nobody-0817"])
def test_command_with_a_secret_is_refused_without_saying_it(text: str) -> None:
    secret = Secret("of-nobody-0817", "TOKEN")
    for command in (text, ["curl", text], ["curl", secret]):
        with pytest.raises(SpecError, match="give it in env, and use") as caught:
            command_work(command, JobSpec())
        assert "0817" not in str(caught.value)


def test_command_is_shown_as_it_was_written() -> None:
    assert describe_command(command_work("a | b", JobSpec()).argv) == "a | b"
    assert describe_command(["a", "b c"]) == "a 'b c'"


def test_name_has_run_job_and_label() -> None:
    assert name_of("0badcafe", "gw1.3.0", Work(make_spec(name="a b"), "x")) == "cj-0badcafe-gw1.3.0-a-b"
    assert name_of("0badcafe", "1", Work(JobSpec(), "<lambda>")) == "cj-0badcafe-1-lambda"


# ---------------------------------------------------------------- orders


def test_order_of_a_command_has_its_words(store: Store) -> None:
    [order] = orders(store, Work(JobSpec(), "echo", argv=("echo", "a b", "ü\n")))
    assert (order["kind"], order["argv"], order["label"]) == ("command", ["echo", "a b", "ü\n"], "echo")
    assert (order["cwd"], order["job_id"], order["fsync"]) == (os.getcwd(), "1.0", True)


def test_order_of_a_call_has_checksums_and_no_payload(store: Store) -> None:
    [order] = orders(store, Work(JobSpec(), "double", double, (["of-the-call"],)))
    assert order["kind"] == "call"
    assert {len(order[part]["sha256"]) for part in ("function", "arguments")} == {64}
    assert "of-the-call" not in json.dumps(order)


def test_payload_of_any_size_goes_by_file(store: Store) -> None:
    """In argv it met E2BIG at 128 KiB elsewhere."""
    [order] = orders(store, Work(JobSpec(), "double", double, (["x" * 3_000_000],)))
    assert os.path.getsize(order["arguments"]["path"]) > 3_000_000
    assert len(json.dumps(order)) < 10_000


def test_jobs_of_one_function_share_it_and_others_have_their_own(store: Store) -> None:
    other = lambda: 1  # noqa: E731
    works = [Work(JobSpec(), "d", double, ([1],)), Work(JobSpec(), "o", other), Work(JobSpec(), "d", double, ([2],))]
    made = orders(store, *works)
    paths = [order["function"]["path"] for order in made]
    assert paths[0] == paths[2] != paths[1]
    assert len({order["arguments"]["path"] for order in made}) == 3
    assert made[0]["arguments"]["sha256"] != made[2]["arguments"]["sha256"]


def test_results_are_written_through_only_where_another_machine_reads_them(store: Store) -> None:
    [order] = orders(store, command_work("true", JobSpec()), is_durable=False)
    assert order["fsync"] is False


def test_nothing_is_made_when_something_cannot_travel(store: Store) -> None:
    import threading

    with pytest.raises(PayloadError):
        orders(store, Work(JobSpec(), "double", double, (threading.Lock(),)))
    assert not os.path.exists(os.path.join(store.directory, "1-x"))


# ---------------------------------------------------------------- loops


def test_loop_is_split_only_when_that_is_asked_for(store: Store) -> None:
    plain, parallel = (Work(make_spec(cores=4, parallel=each), "double", double, ([1],)) for each in (False, True))
    assert [order["splits"] for order in orders(store, plain, parallel)] == [0, 4]


def test_loop_that_cannot_be_split_says_why_and_runs_whole(store: Store) -> None:
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    with pytest.warns(UserWarning, match=r"parallel=True ignored for total\(\): .*; it runs once, whole"):
        [order] = orders(store, Work(make_spec(cores=4, parallel=True), "total", total, ([1],)))
    assert order["splits"] == 0


# ---------------------------------------------------------------- environment


def test_own_options_and_pytest_s_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLUSTERJOBS_WORKDIR", "CLUSTERJOBS_JOB_ID", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS", "MINE"):
        monkeypatch.setenv(name, "1")
    inherited = inherited_environment(True)
    assert inherited["MINE"] == "1"
    assert [name for name in inherited if name.startswith(("CLUSTERJOBS_", "PYTEST_"))] == []


def test_baseline_is_what_a_login_would_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "1")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("LC_ALL", raising=False)
    baseline = inherited_environment(False)
    assert {"PATH", "HOME", "TZ"} <= set(baseline)
    assert not {"MINE", "LC_ALL"} & set(baseline)


@pytest.mark.parametrize("inherit", [True, False])
def test_permission_to_nest_is_inherited(monkeypatch: pytest.MonkeyPatch, inherit: bool) -> None:
    monkeypatch.setenv("CLUSTERJOBS_NESTED", "local")
    assert inherited_environment(inherit)["CLUSTERJOBS_NESTED"] == "local"
