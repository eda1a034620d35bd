"""The way to an API server: where it is looked for, what is said without one, and how it is spoken to.

The server here is a small one that says what a test wants; the real one is in tests/clusters/.
"""

from __future__ import annotations

import json
import pickle
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.backends.base import BackendSettings
from pytest_clusterjobs.backends.kubernetes import KubernetesBackend
from pytest_clusterjobs.backends.kubernetes_api import Api, ApiError, describe
from pytest_clusterjobs.backends.kubernetes_watch import PodWatch
from pytest_clusterjobs.core.errors import BackendUnavailable, ConfigError, ConnectionLost
from pytest_clusterjobs.transports.local import LocalTransport

if TYPE_CHECKING:
    from tests.api_server import kubeconfig, say, server
else:
    from api_server import kubeconfig, say, server


@pytest.fixture
def client() -> None:
    pytest.importorskip("kubernetes")


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/apis/batch/v1/namespaces/ci/jobs", "create jobs in namespace ci"),
        ("GET", "/api/v1/namespaces/ci/pods", "list pods in namespace ci"),
        ("GET", "/api/v1/namespaces/ci/pods/x/log", "get pods/log in namespace ci"),
        ("DELETE", "/apis/batch/v1/namespaces/ci/jobs/x", "delete jobs in namespace ci"),
        ("PATCH", "/api/v1/namespaces/ci/secrets/x", "patch secrets in namespace ci"),
        ("GET", "/api/v1/nodes", "list nodes"),
        ("GET", "/api/v1/namespaces/ci", "get namespaces"),
        ("GET", "/version", "get /version"),
    ],
)
def test_requests_are_called_what_rbac_calls_them(method: str, path: str, words: str) -> None:
    assert describe(method, path) == words


def test_missing_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(BackendUnavailable, match=r"pip install pytest-clusterjobs\[kubernetes\]"):
        KubernetesBackend(LocalTransport(), BackendSettings()).check()


@pytest.mark.usefixtures("client")
def test_missing_kubeconfig_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(BackendUnavailable, match=rf"no file {tmp_path}/nowhere, and this is no pod"):
        Api("", "", 5)


@pytest.mark.usefixtures("client")
def test_context_and_its_namespace_are_chosen_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    assert Api(file, "", 5).namespace == "team"
    assert Api(file, "other", 5).namespace == "default"
    with pytest.raises(ConfigError, match=r"no context 'othr' .* known: work, other — did you mean 'other'"):
        Api(file, "othr", 5)


@pytest.mark.usefixtures("client")
def test_server_that_is_not_there_is_unavailable_and_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    file = kubeconfig(tmp_path / "config", address)
    backend = KubernetesBackend(LocalTransport(), BackendSettings(5, options={"kubeconfig": file}))
    with pytest.raises(BackendUnavailable, match=f"{address} does not answer"):
        backend.check()


@pytest.mark.usefixtures("client")
def test_refusal_has_the_server_s_words_and_survives_pickling_and_the_token_is_in_no_text(tmp_path: Path) -> None:
    seen = []

    def answer(path: str, handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        say(handler, {"message": "Unauthorized", "reason": "Unauthorized", "code": 401}, 401)

    with server(answer) as address:
        api = Api(kubeconfig(tmp_path / "config", address, token="hush-hush"), "", 5)  # noqa: S106 - of nobody
        with pytest.raises(ApiError) as caught:
            api.request("GET", "/api/v1/namespaces/ci/pods")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.status, error.reason) == (401, "Unauthorized")
    assert "cannot list pods in namespace ci: 401 Unauthorized: Unauthorized" in str(error)
    assert seen == ["Bearer hush-hush"]
    assert "hush" not in str(caught.value) + repr(caught.value) + repr(api)


@pytest.mark.usefixtures("client")
def test_stream_that_breaks_off_is_a_lost_connection(tmp_path: Path) -> None:
    def answer(path: str, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"8\r\none\ntwo\n\r\n10\r\nhal")
        handler.close_connection = True

    with server(answer) as address:
        lines = Api(kubeconfig(tmp_path / "config", address), "", 5).stream("/api/v1/x", {}, 5).lines()
        assert [next(lines), next(lines)] == [b"one", b"two"]
        with pytest.raises(ConnectionLost, match="does not answer"):
            next(lines)


# ---------------------------------------------------------------- the watch


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}}


def event(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


@pytest.mark.usefixtures("client")
def test_watch_goes_on_after_a_break_and_lists_anew_when_its_version_is_too_old(tmp_path: Path) -> None:
    asked: list[str] = []
    gone = {"code": 410, "reason": "Expired", "message": "too old resource version"}
    watches = [
        [event("ADDED", pod("a", 6)), event("BOOKMARK", pod("", 8))],
        [event("ERROR", gone)],
        [event("DELETED", pod("b", 21))],
    ]
    seen: list[tuple[str, bool]] = []
    lists: list[set[str]] = []
    done = threading.Event()

    def answer(path: str, handler: BaseHTTPRequestHandler) -> None:
        query = path.partition("?")[2]
        if "watch=1" not in query:
            asked.append("list")
            number = asked.count("list")
            say(handler, {"metadata": {"resourceVersion": str(10 * number - 5)}, "items": [pod(f"listed{number}", 1)]})
            return
        asked.append(next(word for word in query.split("&") if word.startswith("resourceVersion")))
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for line in watches.pop(0) if watches else ():
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        handler.close_connection = True  # without the chunk that would end it
        if not watches:
            done.wait(20)

    def on_pod(thing: Any, is_gone: bool) -> None:
        seen.append((thing["metadata"]["name"], is_gone))
        if is_gone:
            done.set()

    with server(answer) as address:
        api = Api(kubeconfig(tmp_path / "config", address), "", 5)
        watch = PodWatch(api, "team", "x=y", on_pod, lambda: "before", lambda uids, _: lists.append(uids))
        watch.start()
        assert done.wait(20)
        watch.stop()
    assert asked[:5] == ["list", "resourceVersion=5", "resourceVersion=8", "list", "resourceVersion=15"]
    assert seen == [("listed1", False), ("a", False), ("listed2", False), ("b", True)]
    assert lists == [{"listed1"}, {"listed2"}]
