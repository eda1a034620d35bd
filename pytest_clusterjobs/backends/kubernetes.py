"""Kubernetes: every job is a batch/v1 Job of one pod. The API server is all that is shared.

A job travels in Secrets and comes back by its pod's termination message or log; see ``kubernetes_manifest``,
``node/pod.py`` and ``kubernetes_files``. Needs the rights that `RIGHTS` lists, in one
namespace. For servers from 1.20 on.
"""

from __future__ import annotations

import http
import re
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from pytest_clusterjobs.backends import kubernetes_manifest as manifest
from pytest_clusterjobs.backends.base import (
    Backend,
    BackendInfo,
    BackendSettings,
    Capability,
    Expectation,
    QueuedJob,
    Submission,
    Submitted,
)
from pytest_clusterjobs.backends.kubernetes_api import Api, ApiError
from pytest_clusterjobs.backends.kubernetes_entry import Entry
from pytest_clusterjobs.backends.kubernetes_files import Inbox
from pytest_clusterjobs.backends.kubernetes_jobs import Tracker
from pytest_clusterjobs.backends.kubernetes_options import OPTION_NAMES, KubernetesOptions, read_options
from pytest_clusterjobs.backends.kubernetes_status import cpus, read_job
from pytest_clusterjobs.core.errors import (
    BackendError,
    BackendUnavailable,
    ConnectionLost,
    SubmitError,
    SubmitLimit,
    SubmitUnknown,
    UsageError,
)
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import JobState, JobStatus
from pytest_clusterjobs.transports.base import Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

#: What must be allowed in the namespace: API group, resource, verbs.
RIGHTS = (
    ("batch", "jobs", ("create", "get", "list", "delete")),
    ("", "pods", ("list", "watch")),
    ("", "pods/log", ("get",)),
    ("", "secrets", ("create", "patch", "deletecollection")),
)


class KubernetesBackend(Backend):
    """Jobs as pods.

    ``partition``, ``account``, ``qos``, ``constraint``, ``extra_args`` and ``extra_directives`` have no effect: there
    is nothing for them to choose from. The capabilities say so.
    """

    name: ClassVar[str] = "kubernetes"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.TIME_LIMIT, Capability.MEMORY_LIMIT, Capability.GPUS, Capability.SHELL, Capability.DETACHED}
    )
    has_push: ClassVar[bool] = True
    shares_files: ClassVar[bool] = False
    can_be_far: ClassVar[bool] = False
    option_names: ClassVar[frozenset[str]] = OPTION_NAMES

    def __init__(self, transport: Transport, settings: BackendSettings) -> None:
        super().__init__(transport, settings)
        self._options: KubernetesOptions = read_options(settings.options)
        self._lock = threading.Lock()
        self._api: Api | None = None
        self._tracker: Tracker | None = None
        self._session = secrets.token_hex(4)
        self._listener: Callable[[str], None] = lambda _: None

    # ------------------------------------------------------------ the probe

    def check(self) -> BackendInfo:
        """Ask the API server for its version, the namespace, our rights in it, and the nodes if we may see them.

        Raises:
            BackendUnavailable: There is no way to a server, it does not answer, the namespace is missing, or a right
                is; the message names it.
        """
        try:
            version = self._server().request("GET", "/version")["gitVersion"]
            self._check_namespace()
            missing = [right for right in map(self._missing_right, _each_right()) if right]
        except ApiError as error:
            raise BackendUnavailable(str(error.args[0]), self.name) from None
        except ConnectionLost as error:
            raise BackendUnavailable(str(error.args[0]), self.name) from None
        if missing:
            raise BackendUnavailable(
                f"not allowed in namespace {self.namespace}: {', '.join(missing)}; the how-to on Kubernetes has "
                "a Role with what is needed",
                self.name,
            )
        nodes = self._nodes()
        return BackendInfo(
            version=f"kubernetes {version}",
            nodes=len(nodes) or None,
            cores_per_node=max(map(cpus, nodes), default=None),
            gpus=sum(int(each["status"]["allocatable"].get(self._options.gpu_resource, 0)) for each in nodes)
            if nodes
            else None,
            detail=f"namespace {self.namespace}, image {self._options.image}",
        )

    @property
    def namespace(self) -> str:
        """Where the jobs are."""
        return self._options.namespace or self._server().namespace

    def _check_namespace(self) -> None:
        try:
            self._server().request("GET", f"/api/v1/namespaces/{self.namespace}")
        except ApiError as error:
            if error.status != http.HTTPStatus.FORBIDDEN:  # who may not look may still work in it
                raise

    def _missing_right(self, right: tuple[str, str, str]) -> str:
        group, resource, verb = right
        kind, _, part = resource.partition("/")
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": kind, "subresource": part}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._server().request("POST", path, body=review)
        return "" if answer["status"].get("allowed") else f"{verb} {resource}"

    def _nodes(self) -> list[dict[str, Any]]:
        try:
            nodes = self._server().request("GET", "/api/v1/nodes")["items"]
        except BackendError:
            return []
        return [each for each in nodes if not each["spec"].get("unschedulable")]

    # ------------------------------------------------------------ jobs

    def submit(self, submission: Submission) -> Submitted:
        """Create the Secrets and the Job of one job.

        Raises:
            SubmitError: Refused, and would be refused again: a right, a field, a size.
            SubmitLimit: A quota is used up by jobs of ours that will end, or the server is too busy.
            SubmitUnknown: The server did not answer.
        """
        if submission.spec.nodes > 1:
            raise SubmitError(f"{submission.name} asks for nodes={submission.spec.nodes}, and a pod has one", self.name)
        native_id = manifest.object_name(submission.name)
        shared = self._options.shared_volume
        packed = manifest.pack(submission, native_id, shared)
        tracker = self._tracking()
        inbox = Inbox(self.transport, submission.directory)
        pending = JobStatus(JobState.PENDING, "Submitted")
        entry = Entry(native_id, submission.spec.cores, inbox, shared is not None, pending)
        tracker.add(entry)
        own = manifest.labels(submission, self._session, native_id)
        parts = manifest.secrets(native_id, packed, own)
        job = manifest.job(submission, native_id, self._options, own, len(parts))
        try:
            for part in parts:
                self._create(f"/api/v1/namespaces/{self.namespace}/secrets", part, submission.name)
            created = self._create(f"/apis/batch/v1/namespaces/{self.namespace}/jobs", job, submission.name)
        except BackendError as error:
            raise self._refused(entry, error) from None
        tracker.accepted(entry)
        tracker.do(self._give_to_job, created, [part["metadata"]["name"] for part in parts])
        return Submitted((native_id,), f"create job {self.namespace}/{native_id} with image {self._options.image}")

    def _create(self, path: str, body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """Create an object; one that is there already is given, if it is ours: the reply to its creation was lost."""
        try:
            return self._server().request("POST", path, body=body)
        except ApiError as error:
            if error.status != http.HTTPStatus.CONFLICT or error.reason != "AlreadyExists":
                raise
            if body["kind"] == "Secret":
                return body  # its name, which we may not read, is of this very job
            metadata = body["metadata"]
            there = self._server().request("GET", f"{path}/{metadata['name']}")
            if read_job(there).name != name:
                raise
            return there

    def _refused(self, entry: Entry, error: BackendError) -> BackendError:
        tracker = self._tracking()
        if isinstance(error, ConnectionLost):
            return SubmitUnknown(str(error.args[0]), self.name, error.command)
        status = error.status if isinstance(error, ApiError) else 0
        message = str(error.args[0])
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            return SubmitUnknown(message, self.name, error.command)
        tracker.forget(entry)
        tracker.do(self._remove_secrets, f"{manifest.JOB_LABEL}={entry.native_id}")
        is_quota = status == http.HTTPStatus.FORBIDDEN and "exceeded quota" in message
        if status == http.HTTPStatus.TOO_MANY_REQUESTS or (is_quota and tracker.has_unfinished(entry)):
            return SubmitLimit(message, self.name, error.command)
        return SubmitError(message, self.name, error.command)

    def _give_to_job(self, job: Mapping[str, Mapping[str, Any]], names: Collection[str]) -> None:
        """Make a Job the owner of its Secrets: the server removes them with it, whoever deletes it."""
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
        }
        for name in names:
            path = f"/api/v1/namespaces/{self.namespace}/secrets/{name}"
            try:
                self._server().request("PATCH", path, body={"metadata": {"ownerReferences": [owner]}})
            except BackendError:
                return  # `close` removes what no Job owns

    def _remove_secrets(self, selector: str) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/secrets"
        self._server().read("DELETE", path, query={"labelSelector": selector})

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        selector = f"{manifest.MANAGED_BY}={manifest.MANAGER}"
        if run := manifest.run_of(name_prefix):
            selector += f",{manifest.RUN_LABEL}={run}"
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        found = map(read_job, self._server().request("GET", path, query={"labelSelector": selector})["items"])
        return {
            each.native_id: QueuedJob(each.name, self._known(each.native_id) or each.status)
            for each in found
            if each.name.startswith(name_prefix)
        }

    def explain(self, native_id: str) -> JobStatus | None:
        if (known := self._known(native_id)) is not None:
            return known
        try:
            path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{native_id}"
            return read_job(self._server().request("GET", path)).status
        except ApiError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise

    def _known(self, native_id: str) -> JobStatus | None:
        return None if self._tracker is None else self._tracker.status(native_id)

    def expected_environment(self, native_id: str, name: str, spec: JobSpec) -> Mapping[str, Expectation]:
        contract = {
            "KUBERNETES_SERVICE_HOST": Expectation(source="Kubernetes, Accessing the API from a Pod"),
            "POD_NAME": Expectation(pattern=re.escape(native_id) + r"-\w+", source="our manifest, the downward API"),
            "POD_NAMESPACE": Expectation(self.namespace, source="our manifest, the downward API"),
            # Not there for service accounts that mount no token.
            "namespace": Expectation(self.namespace, is_optional=True, source="Kubernetes, Service Accounts"),
        }
        return {**super().expected_environment(native_id, name, spec), **contract}

    def explain_sources(self) -> tuple[str, ...]:
        return ("the Job", "its pod", "the pod's log")

    def cancel(self, native_ids: Collection[str]) -> None:
        for native_id in native_ids:
            if self._tracker is None or not self._tracker.cancel(native_id):
                self._delete(native_id)
                with suppress(ApiError):  # its process may have died before its Secrets were the Job's own
                    self._remove_secrets(f"{manifest.JOB_LABEL}={native_id}")

    def _delete(self, native_id: str) -> None:
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{native_id}"
        try:
            self._server().request("DELETE", path, body={"propagationPolicy": "Background"})
        except ApiError as error:
            if error.status != http.HTTPStatus.NOT_FOUND:
                raise

    def set_listener(self, listener: Callable[[str], None]) -> None:
        self._listener = listener

    def read_left(self, native_id: str, directory: str, path: str) -> bytes | None:
        if self._options.shared_volume is not None:
            return super().read_left(native_id, directory, path)
        raise UsageError("a pod's files go with it: have the job return or print what is in them")

    def close(self) -> None:
        """Delete what is left of this process's jobs, and stop watching."""
        with self._lock:
            tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close(self.settings.command_timeout_s)
            selector = f"{manifest.SESSION_LABEL}={self._session}"
            try:
                path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
                for each in self._server().request("GET", path, query={"labelSelector": selector})["items"]:
                    self._delete(each["metadata"]["name"])
                self._remove_secrets(selector)
            except BackendError:
                return  # `clusterjobs reap` finds what is left

    def _server(self) -> Api:
        with self._lock:
            if self._api is None:
                options = self._options
                self._api = Api(options.kubeconfig, options.context, self.settings.command_timeout_s)
            return self._api

    def _tracking(self) -> Tracker:
        api, namespace = self._server(), self.namespace
        with self._lock:
            if self._tracker is None:
                self._tracker = Tracker(api, namespace, self._session, lambda native_id: self._listener(native_id))
                self._tracker.start()
            return self._tracker


def _each_right() -> list[tuple[str, str, str]]:
    return [(group, resource, verb) for group, resource, verbs in RIGHTS for verb in verbs]
