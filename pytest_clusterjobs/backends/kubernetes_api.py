"""The way to a Kubernetes API server: the one place that imports its client, and that only when it is used.

The client finds the server, proves who we are and keeps the proof fresh; requests are plain JSON, so that they mean the
same with every version of it. Errors never hold a token: they name a verb, a resource and a namespace.
"""

from __future__ import annotations

import http
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pytest_clusterjobs.core.errors import BackendUnavailable, CommandError, ConfigError, ConnectionLost
from pytest_clusterjobs.core.naming import nearest

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

_BACKEND = "kubernetes"
_CONNECTIONS = 64
_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
#: What a pod has, if its service account is mounted (Kubernetes' documentation, "Accessing the API from a Pod").
_IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiError(CommandError):
    """The API server answered with an error.

    Args:
        message: The server's own words, with what was asked.
        status: The HTTP status.
        reason: The server's word for it, e.g. ``AlreadyExists``.
    """

    def __init__(self, message: str, status: int, reason: str, command: str = "") -> None:
        super().__init__(message, _BACKEND, command)
        self.args = (message, status, reason, command)  # what it is made again from: it survives pickling
        self.status, self.reason = status, reason

    def __str__(self) -> str:
        return f"{super().__str__()}\n  answer: {self.status} {self.reason}"


class Stream:
    """An answer that goes on until the server ends it. One thread reads it; any may stop it."""

    def __init__(
        self, response: Any, errors: tuple[type[Exception], ...], lost: Callable[[Exception], Exception]
    ) -> None:
        self._response, self._errors, self._lost = response, errors, lost
        self._is_stopped = False

    def lines(self) -> Iterator[bytes]:
        """Give the lines as they come, without their ends; the last one only if it is whole.

        Raises:
            ConnectionLost: The connection broke, or was silent for too long.
        """
        rest = b""
        try:
            for piece in self._response.stream(None, decode_content=False):
                *whole, rest = (rest + piece).split(b"\n")
                yield from whole
        except self._errors as error:
            if not self._is_stopped:
                raise self._lost(error) from None
        finally:
            self._response.close()

    def stop(self) -> None:
        """End it now, for the thread that reads it too. Idempotent."""
        self._is_stopped = True
        sock = getattr(self._response.connection, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Api:
    """An API server, as a kubeconfig or a pod's service account describes it. Any thread may use it.

    Args:
        kubeconfig: Path of the file, or "" for ``KUBECONFIG``, ``~/.kube/config`` or the pod's own account, in
            that order.
        context: Name of the context in it, or "" for the current one.
        timeout_s: Seconds that a request may take.

    Raises:
        BackendUnavailable: The client is not installed, or nothing says where a server is.
        ConfigError: There is no such context.
    """

    def __init__(self, kubeconfig: str, context: str, timeout_s: float) -> None:
        try:
            import urllib3
            from kubernetes import client, config
        except ImportError as error:
            message = f"its client is not installed ({error}): pip install pytest-clusterjobs[kubernetes]"
            raise BackendUnavailable(message, _BACKEND) from None
        self._urllib3, self._timeout_s = urllib3, timeout_s
        self._lock = threading.Lock()
        self._configuration = client.Configuration()
        self._configuration.connection_pool_maxsize = _CONNECTIONS
        #: The namespace that the context names, or ``default``.
        self.namespace = "default"
        try:
            self._load(config, kubeconfig, context)
        except config.ConfigException as error:
            raise BackendUnavailable(f"its configuration cannot be used: {error}", _BACKEND) from None
        self._pool = client.ApiClient(self._configuration).rest_client.pool_manager
        #: The server's address.
        self.server = str(self._configuration.host)

    def _load(self, config: Any, kubeconfig: str, context: str) -> None:
        files = kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
        if any(os.path.isfile(path) for path in files.split(os.pathsep)):
            contexts, current = config.list_kube_config_contexts(files)
            known = {each["name"]: each["context"] for each in contexts}
            name = context or current["name"]
            if name not in known:
                raise ConfigError(
                    f"kubernetes: no context {name!r} in {files}; known: {', '.join(known)}{nearest(name, known)}"
                )
            self.namespace = known[name].get("namespace") or self.namespace
            config.load_kube_config(files, name, client_configuration=self._configuration)
        elif not kubeconfig and _IN_POD.joinpath("token").exists() and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=self._configuration)
            self.namespace = _IN_POD.joinpath("namespace").read_text(encoding="utf-8").strip()
        else:
            raise BackendUnavailable(
                f"no kubeconfig: there is no file {files}, and this is no pod with a service account; set KUBECONFIG "
                "or the option 'kubeconfig'",
                _BACKEND,
            )

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Send a request and give the JSON object that came back.

        Raises:
            ApiError: The server refused.
            ConnectionLost: It did not answer; the request may have had its effect.
        """
        answer: dict[str, Any] = json.loads(self.read(method, path, query=query, body=body, timeout_s=timeout_s))
        return answer

    def read(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """Send a request and give what came back, e.g. a log. Raises as `request` does."""
        response = self._send(method, path, query, body, timeout_s or self._timeout_s)
        try:
            return bytes(response.read())
        except (self._urllib3.exceptions.HTTPError, OSError) as error:
            raise self._lost(method, path, error) from None
        finally:
            response.release_conn()

    def stream(self, path: str, query: Mapping[str, str], silence_s: float) -> Stream:
        """Begin an answer that goes on, a watch or a log that is followed. Raises as `request` does.

        Args:
            path: What is asked for.
            query: How.
            silence_s: Seconds without a byte after which it counts as lost.
        """
        response = self._send("GET", path, query, None, silence_s)
        errors = (self._urllib3.exceptions.HTTPError, OSError)
        return Stream(response, errors, lambda error: self._lost("GET", path, error))

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        timeout_s: float,
    ) -> Any:
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json, */*"}
        if body is not None:
            kind = "merge-patch+json" if method == "PATCH" else "json"
            headers["Content-Type"] = f"application/{kind}"
        with self._lock:  # it may renew a token
            settings: Any = self._configuration.auth_settings()
            for each in settings.values():
                headers[each["key"]] = each["value"]
        data = None if body is None else json.dumps(body).encode()
        timeout = self._urllib3.Timeout(connect=min(timeout_s, self._timeout_s), read=timeout_s)
        try:
            response = self._pool.request(
                method, url, headers=headers, body=data, timeout=timeout, preload_content=False, retries=False
            )
            if response.status >= http.HTTPStatus.BAD_REQUEST:
                raise _refusal(method, path, response.status, response.data)
        except (self._urllib3.exceptions.HTTPError, OSError) as error:
            raise self._lost(method, path, error) from None
        return response

    def _lost(self, method: str, path: str, error: Exception) -> ConnectionLost:
        return ConnectionLost(f"{self.server} does not answer: {error}", _BACKEND, describe(method, path))


def describe(method: str, path: str) -> str:
    """Say what a request does, as RBAC would: ``create jobs in namespace ci``."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        namespace, parts = f" in namespace {parts[1]}", parts[2:]
    resource = parts[0] if parts else path
    if len(parts) > 2:
        resource += f"/{parts[2]}"
    verb = "list" if method == "GET" and len(parts) == 1 else _VERBS[method]
    return f"{verb} {resource}{namespace}"


def _refusal(method: str, path: str, status: int, data: bytes) -> ApiError:
    try:
        said = json.loads(data)
        message, reason = str(said["message"]), str(said.get("reason", ""))
    except (ValueError, LookupError, TypeError):
        message, reason = data.decode(errors="replace")[:500].strip(), ""
    asked = describe(method, path)
    return ApiError(f"cannot {asked}: {status} {reason}: {message}", status, reason, asked)
