"""The backend kubernetes and answers that a real API server gives too seldom. The real one is in tests/clusters/."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.backends.base import BackendSettings, Capability, Submission
from pytest_clusterjobs.backends.kubernetes import RIGHTS, KubernetesBackend
from pytest_clusterjobs.core.errors import BackendError, BackendUnavailable, SubmitError, SubmitLimit, SubmitUnknown
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.transports.local import LocalTransport

if TYPE_CHECKING:
    from tests.api_server import kubeconfig, say, server
else:
    from api_server import kubeconfig, say, server

pytest.importorskip("kubernetes")

NAME = "cj-0123abcd-1-f"
EMPTY = {"metadata": {"resourceVersion": "1"}, "items": []}
DONE = {"metadata": {"name": NAME, "uid": "u"}, "kind": "Status"}
QUOTA = 'jobs.batch "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: 1, limited: 1'

#: Gives an answer's status and body, or None for the usual one.
Special = Callable[[str, str], "tuple[int, Any] | None"]


def job(name: str = NAME) -> dict[str, Any]:
    return {"metadata": {"name": NAME, "uid": "u", "annotations": {"clusterjobs/name": name}}, "status": {"active": 1}}


def status(code: int, reason: str, message: str) -> tuple[int, Any]:
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}


class Setting:
    """A backend and the server it speaks to."""

    def __init__(self, folder: Path, stack: ExitStack, special: Special) -> None:
        self.folder = folder
        self.requests: list[str] = []

        def answer(path: str, handler: BaseHTTPRequestHandler) -> None:
            method, what = handler.command, path.partition("?")[0]
            self.requests.append(f"{method} {what}")
            code, body = special(method, path) or (200, EMPTY if method == "GET" else DONE)
            say(handler, body, code)

        address = stack.enter_context(server(answer))
        options = {"kubeconfig": kubeconfig(folder / "config", address)}
        self.backend = KubernetesBackend(LocalTransport(), BackendSettings(5, options=options))
        stack.callback(self.backend.close)

    def submit(self, name: str = NAME, **resources: Any) -> tuple[str, ...]:
        directory, node = self.folder / "main" / "1-f", self.folder / "node"
        for place in (directory, node):
            place.mkdir(parents=True, exist_ok=True)
        (directory / "order.json").write_text("{}")
        (node / "start.py").write_text("")
        where, runner = str(directory), str(node / "start.py")
        submission = Submission(name, make_spec(**resources), (where,), where, ("mark",), runner, "python3")
        return self.backend.submit(submission).native_ids


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Callable[..., Setting]]:
    with ExitStack() as stack:
        yield lambda special=lambda method, path: None: Setting(tmp_path, stack, special)


def test_capabilities_say_what_a_pod_cannot() -> None:
    cannot = {
        Capability.ARRAYS,
        Capability.PARTITIONS,
        Capability.ACCOUNTS,
        Capability.MULTI_NODE,
        Capability.DIRECTIVES,
    }
    assert not cannot & KubernetesBackend.capabilities
    assert KubernetesBackend.has_push
    assert Capability.DETACHED in KubernetesBackend.capabilities


def test_submission_creates_a_secret_and_then_a_job_that_owns_it(setting: Callable[..., Setting]) -> None:
    made = setting()
    assert made.submit() == (NAME,)
    made.backend.close()
    writes = [each for each in made.requests if not each.startswith("GET")]
    assert writes[:3] == [
        "POST /api/v1/namespaces/team/secrets",
        "POST /apis/batch/v1/namespaces/team/jobs",
        f"PATCH /api/v1/namespaces/team/secrets/{NAME}-0",
    ]


def test_job_that_is_there_already_under_our_name_is_ours(setting: Callable[..., Setting]) -> None:
    def special(method: str, path: str) -> tuple[int, Any] | None:
        if method == "POST":
            return status(409, "AlreadyExists", "already exists")
        return (200, job()) if path.endswith(NAME) else None

    assert setting(special).submit() == (NAME,)


def test_job_of_somebody_else_under_our_name_is_refused(setting: Callable[..., Setting]) -> None:
    def special(method: str, path: str) -> tuple[int, Any] | None:
        if method == "POST" and path.endswith("jobs"):
            return status(409, "AlreadyExists", "already exists")
        return (200, job("another")) if path.endswith(NAME) else None

    with pytest.raises(SubmitError, match="409 AlreadyExists"):
        setting(special).submit()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (status(403, "Forbidden", "no"), SubmitError, "cannot create jobs in namespace team: 403 Forbidden: no"),
        (status(403, "Forbidden", QUOTA), SubmitError, "exceeded quota: q"),
        (status(422, "Invalid", "spec.x"), SubmitError, "spec.x"),
        (status(429, "TooManyRequests", "later"), SubmitLimit, "later"),
        (status(500, "InternalError", "etcd"), SubmitUnknown, "etcd"),
        (status(504, "Timeout", "slow"), SubmitUnknown, "slow"),
    ],
)
def test_refusals(setting: Callable[..., Setting], answer: Any, error: type[BackendError], words: str) -> None:
    made = setting(lambda method, path: answer if method == "POST" and path.endswith("jobs") else None)
    with pytest.raises(error, match=words) as caught:
        made.submit()
    assert type(caught.value) is error


def test_quota_that_a_job_of_ours_uses_up_is_a_limit(setting: Callable[..., Setting]) -> None:
    answers = [None, status(403, "Forbidden", QUOTA)]

    def special(method: str, path: str) -> tuple[int, Any] | None:
        return answers.pop(0) if method == "POST" and path.endswith("jobs") else None

    made = setting(special)
    made.submit()
    with pytest.raises(SubmitLimit, match="exceeded quota"):
        made.submit("cj-0123abcd-2-f")


def test_secrets_of_a_refused_job_are_removed(setting: Callable[..., Setting]) -> None:
    made = setting(lambda method, path: status(403, "Forbidden", "no") if path.endswith("jobs") else None)
    with pytest.raises(SubmitError):
        made.submit()
    made.backend.close()
    assert "DELETE /api/v1/namespaces/team/secrets" in made.requests


def test_several_nodes_are_refused_before_anything_is_sent(setting: Callable[..., Setting]) -> None:
    made = setting()
    with pytest.raises(SubmitError, match="nodes=2, and a pod has one"):
        made.submit(nodes=2)
    assert made.requests == []


def test_query_gives_jobs_by_the_beginning_of_their_name(setting: Callable[..., Setting]) -> None:
    def special(method: str, path: str) -> tuple[int, Any] | None:
        return (200, {**EMPTY, "items": [job(NAME), job("cj-9999abcd-1-g")]}) if "jobs?" in path else None

    found = setting(special).backend.query("cj-0123abcd-")
    assert {each.name: each.status.state for each in found.values()} == {NAME: JobState.RUNNING}


def test_cancel_and_explanation_of_a_job_that_is_gone_are_no_errors(setting: Callable[..., Setting]) -> None:
    backend = setting(lambda method, path: status(404, "NotFound", "gone")).backend
    backend.cancel(["cj-0123abcd-7-x"])
    assert backend.explain("cj-0123abcd-7-x") is None


def test_secrets_of_a_job_whose_process_died_are_removed_with_it(setting: Callable[..., Setting]) -> None:
    made = setting()
    made.backend.cancel([NAME])
    assert made.requests == [
        f"DELETE /apis/batch/v1/namespaces/team/jobs/{NAME}",
        "DELETE /api/v1/namespaces/team/secrets",
    ]


def test_probe_names_every_missing_right(setting: Callable[..., Setting]) -> None:
    def special(method: str, path: str) -> tuple[int, Any] | None:
        if path == "/version":
            return 200, {"gitVersion": "v1.31.0"}
        return (201, {"status": {"allowed": False}}) if method == "POST" else None

    with pytest.raises(
        BackendUnavailable, match=r"not allowed in namespace team: create jobs, .*watch pods, get pods/log"
    ):
        setting(special).backend.check()


def test_probe_tells_version_and_nodes_where_they_may_be_seen(setting: Callable[..., Setting]) -> None:
    node = {"spec": {}, "status": {"allocatable": {"cpu": "7910m", "nvidia.com/gpu": "2"}}}

    def special(method: str, path: str) -> tuple[int, Any] | None:
        answers = {"/version": {"gitVersion": "v1.31.0"}, "/api/v1/nodes": {"items": [node, node]}}
        if path in answers:
            return 200, answers[path]
        return (201, {"status": {"allowed": True}}) if method == "POST" else None

    made = setting(special)
    info = made.backend.check()
    assert (info.version, info.nodes, info.cores_per_node, info.gpus) == ("kubernetes v1.31.0", 2, 7, 4)
    reviews = [each for each in made.requests if each.endswith("selfsubjectaccessreviews")]
    assert len(reviews) == sum(len(verbs) for _, _, verbs in RIGHTS)


def test_probe_tells_of_a_namespace_that_is_missing(setting: Callable[..., Setting]) -> None:
    def special(method: str, path: str) -> tuple[int, Any] | None:
        if path == "/version":
            return 200, {"gitVersion": "v1.31.0"}
        return status(404, "NotFound", 'namespaces "team" not found') if path.endswith("/team") else None

    with pytest.raises(BackendUnavailable, match='404 NotFound: namespaces "team" not found'):
        setting(special).backend.check()
