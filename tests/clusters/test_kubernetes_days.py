"""Good and bad days on a real Kubernetes: what a job gets, what ends it, what an outage does, what is left."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import (
    JobCancelled,
    JobFailed,
    JobInfrastructureError,
    JobTimeout,
    QueueTimeout,
    SubmitError,
)
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import command_work
from tests import days
from tests.days import call, command
from tests.watching import wait_for

if TYPE_CHECKING:
    from tests.kubernetes_lane.cluster import Cluster

pytestmark = [pytest.mark.cluster_lane("kubernetes"), pytest.mark.usefixtures("kubernetes")]

started = partial(days.started, within_s=60)

#: Makes a run whose jobs have options of the backend.
RunMaker = Callable[..., AbstractContextManager[Run]]


@pytest.fixture
def make_run(kubernetes: Cluster, tmp_path: Path) -> RunMaker:
    """Give what makes a run and looks at its end that nothing is left on the server."""

    @contextmanager
    def make(**options: str) -> Iterator[Run]:
        # Pods that are being deleted keep their CPUs for a while: the next test's job shall not wait for them.
        place = Place("site", "kubernetes", options={"cpu_request": "100m", **options})
        settings = Settings(workdir=str(tmp_path / "work"), lost_after_s=5, command_timeout_s=20)
        run = Run(settings, places={"site": place}.__getitem__)
        run.select("site")
        try:
            yield run
        finally:
            report = run.close()
        assert report.leaked == []
        kubernetes.wait_for("everything to be deleted", lambda: not left(kubernetes, run), 30)

    return make


@pytest.fixture(scope="module", autouse=True)
def nothing_left(kubernetes_cluster: Cluster) -> Iterator[None]:
    """Look at the end that pods which were being deleted are gone: that takes a kubelet of 1.20 up to 11 s."""
    yield
    words = ("get", "jobs,pods,secrets", "-A", "-l", "app.kubernetes.io/managed-by=clusterjobs", "-o", "name")
    kubernetes_cluster.wait_for("all pods to be gone", lambda: kubernetes_cluster.kubectl(*words) == "", 240)


@pytest.fixture
def run(make_run: RunMaker) -> Iterator[Run]:
    with make_run() as made:
        yield made


def left(kubernetes: Cluster, run: Run) -> list[str]:
    """Give what is left of a run on the server and is not being deleted."""
    label = f"clusterjobs/run={run.run_id}"
    found = json.loads(kubernetes.kubectl("get", "jobs,pods,secrets", "-A", "-l", label, "-o", "json"))["items"]
    living = [each for each in found if "deletionTimestamp" not in each["metadata"]]
    return [f"{each['kind']} {each['metadata']['name']}" for each in living]


# ---------------------------------------------------------------- what a job gets


def test_a_job_knows_its_pod_its_namespace_its_node_and_the_server(run: Run) -> None:
    def look() -> tuple[str, dict[str, str], str, bool]:
        import socket

        mounted = "/var/run/secrets/kubernetes.io/serviceaccount"
        with open(f"{mounted}/namespace") as file:
            namespace = file.read()
        return socket.gethostname(), dict(os.environ), namespace, os.path.exists(f"{mounted}/token")

    job = call(run, look)
    host, environment, namespace, has_token = job.result(60)
    assert environment["POD_NAME"] == environment["HOSTNAME"] == host
    assert host.startswith(job.native_id)
    assert environment["POD_NAMESPACE"] == namespace == "default"
    assert environment["NODE_NAME"] == "".join(job.metrics.nodes) == "127.0.0.1"
    assert environment["KUBERNETES_SERVICE_HOST"]
    assert environment["CLUSTERJOBS_NATIVE_ID"] == job.native_id
    assert has_token


def test_factorial_and_matrices(run: Run) -> None:
    def product(left: list[list[int]], right: list[list[int]]) -> tuple[list[list[int]], str]:
        columns = list(zip(*right, strict=True))
        return [[sum(map(int.__mul__, row, col)) for col in columns] for row in left], os.environ["POD_NAME"]

    import math

    one, two = [[1, 2], [3, 4]], [[0, 1], [1, 0]]
    jobs = [call(run, product, one, two), call(run, product, two, one)]
    assert call(run, math.factorial, 6).result(60) == 720
    values = [job.result(60) for job in jobs]
    assert [value for value, _ in values] == [[[2, 1], [4, 3]], [[3, 4], [1, 2]]]
    assert [pod.rpartition("-")[0] for _, pod in values] == [job.native_id for job in jobs]


def test_requests_and_limits_are_what_was_asked_for(make_run: RunMaker, kubernetes: Cluster) -> None:
    with make_run(cpu_request="") as run:
        job = command(run, "sleep 300", cores=2, memory="2GB")
        path = "jsonpath={.spec.template.spec.containers[0].resources}"
        shown = kubernetes.kubectl("get", "job", job.native_id, "-o", path)
        assert shown == '{"limits":{"cpu":"2","memory":"2Gi"},"requests":{"cpu":"2","memory":"2Gi"}}'


def test_limits_of_the_control_group_are_seen_in_the_job(run: Run) -> None:
    job = call(run, os.getpid, memory="256MB")
    job.result(60)
    start = Path(job.record.directory, "start.json").read_text()
    assert str(256 * 2**20) in start


def test_environment_of_the_job_is_in_no_manifest_and_no_file_of_ours(run: Run, kubernetes: Cluster) -> None:
    job = started(run, 'echo "${#CJ_SECRET}"; sleep 300', env={"CJ_SECRET": "hush-hush-4711"})
    wait_for(lambda: "14" in job.logs().stdout)
    shown = kubernetes.kubectl("get", "job,pod", "-l", f"clusterjobs/job={job.native_id}", "-o", "yaml")
    assert job.native_id in shown
    assert "hush" not in shown
    files = [path for path in Path(run.directory).rglob("*") if path.is_file()]
    assert [path for path in files if b"hush-hush" in path.read_bytes()] == []


def test_volumes_secrets_and_config_maps_are_mounted_or_become_variables(
    make_run: RunMaker, kubernetes: Cluster, tmp_path: Path
) -> None:
    meta = {"name": "lane-things", "namespace": "default"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"CJ_WORD": "open sesame"}}
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"CJ_SIZE": "7"}}
    kubernetes.apply(secret, settings)
    place = tmp_path / "seen"
    place.mkdir()
    volumes = f"hostpath:{place}:/data,secret:lane-things:/secrets,configmap:lane-things:/settings:ro,emptydir:/scratch"
    things = {"env_from_secrets": "lane-things", "env_from_configmaps": "lane-things"}

    def use() -> list[str]:
        with open("/data/from-the-pod", "w") as file:
            file.write("written")
        with open("/scratch/x", "w") as file:
            file.write("x")
        return [os.environ["CJ_WORD"], os.environ["CJ_SIZE"], *(open(f"/{p}").read() for p in ("secrets/CJ_WORD",))]

    with make_run(volumes=volumes, **things) as run:
        assert call(run, use).result(60) == ["open sesame", "7", "open sesame"]
    assert (place / "from-the-pod").read_text() == "written"


def test_namespace_node_selector_and_service_account_are_obeyed(make_run: RunMaker, kubernetes: Cluster) -> None:
    kubernetes.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "worker", "namespace": "team"}},
    )
    options = {"namespace": "team", "service_account": "worker", "node_selector": "kubernetes.io/os=linux"}
    with make_run(**options, tolerations="dedicated=ci:NoSchedule", pull_policy="IfNotPresent") as run:
        job = started(run, "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; sleep 300")
        wait_for(lambda: job.logs().stdout == "team")
        shown = kubernetes.kubectl("-n", "team", "get", "pod", "-o", "jsonpath={.items[0].spec.serviceAccountName}")
        assert shown == "worker"


# ---------------------------------------------------------------- what comes back


def test_a_result_of_ten_megabytes_that_cannot_be_packed_comes_back(run: Run) -> None:
    assert len(call(run, os.urandom, 10_000_000).result(120)) == 10_000_000


def test_fifty_megabytes_of_output_with_lines_like_ours_change_nothing(run: Run) -> None:
    def shout() -> int:
        for number in range(1000):
            print(f"{number} r 0/1 Zm9yZ2Vk")
            print('0 s {"size": 1, "sha256": "00", "parts": 1}')
        line = "x" * 999
        for _ in range(50_000):
            print(line)
        print("the end")
        return 42

    job = call(run, shout)
    assert job.result(120) == 42
    printed = job.logs().stdout
    assert printed.startswith("0 r 0/1 Zm9yZ2Vk\n0 s {")
    assert printed.endswith("the end\n")
    assert "bytes are left out here" in printed
    assert len(printed) < 5_000_000


def test_output_that_is_no_text_comes_back_as_it_was(run: Run) -> None:
    job = command(run, r"printf 'a\0b\377\r\nc'; printf 'no end' >&2")
    job.result(60)
    assert Path(job.record.directory, "stdout.log").read_bytes() == b"a\0b\xff\r\nc"
    assert Path(job.record.directory, "stderr.log").read_bytes() == b"no end"


def test_argument_of_four_megabytes_travels_in_several_secrets(run: Run) -> None:
    data = os.urandom(4_000_000)
    assert call(run, len, data).result(120) == len(data)


def test_argument_that_is_too_large_is_refused_before_anything_is_sent(run: Run, kubernetes: Cluster) -> None:
    with pytest.raises(SubmitError, match=r"put data on a volume"):
        call(run, len, os.urandom(25_000_000))
    assert left(kubernetes, run) == []


def test_output_is_seen_while_the_job_runs(run: Run) -> None:
    job = started(run, "for i in 1 2 3; do echo line $i; sleep 0.2; done; sleep 300")
    wait_for(lambda: job.logs().stdout == "line 1\nline 2\nline 3\n", within_s=15)
    assert job.state is JobState.RUNNING


def test_files_travel_on_a_volume_that_both_see(make_run: RunMaker, tmp_path: Path) -> None:
    with make_run(shared_volume=f"hostpath:{tmp_path}:{tmp_path}") as run:
        assert len(call(run, os.urandom, 30_000_000).result(60)) == 30_000_000
        assert call(run, len, bytes(25_000_000)).result(60) == 25_000_000
        job = started(run, "echo seen at once; exec sleep 300", prologue="echo first")
        wait_for(lambda: job.logs().stdout == "first\nseen at once\n", within_s=5)
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(20)
        failing = command(run, "echo bye; exit 3")
        assert failing.wait(60)
        assert (failing.metrics.exit_code, failing.logs().stdout) == (3, "bye\n")


# ---------------------------------------------------------------- what ends a job


def test_memory_above_the_limit_is_out_of_memory(run: Run) -> None:
    def eat() -> int:
        print("eating", flush=True)
        return len(bytearray(400 * 2**20))

    job = call(run, eat, memory="128MB")
    with pytest.raises(JobFailed, match="ran out of memory"):
        job.result(60)
    assert job.reason is ExitReason.OUT_OF_MEMORY
    assert job.logs().stdout == "eating\n"


def test_time_limit_is_the_cluster_s_and_keeps_what_was_printed(run: Run) -> None:
    began = time.monotonic()
    job = command(run, "echo before; sleep 300", time="2s")
    with pytest.raises(JobTimeout, match="time limit"):
        job.result(60)
    assert (job.state, job.reason) == (JobState.FAILED, ExitReason.TIMEOUT)
    assert job.logs().stdout == "before\n"
    assert time.monotonic() - began < 25


def test_missing_image_is_a_launch_failure_soon(make_run: RunMaker) -> None:
    with make_run(image="localhost/no-such-image:1") as run:
        job = command(run, "true")
        with pytest.raises(JobInfrastructureError, match=r"ErrImage|ImagePull") as caught:
            job.result(40)
        assert job.reason is ExitReason.LAUNCH_FAILURE
        assert "localhost/no-such-image:1" in str(caught.value)


def test_impossible_image_name_is_a_launch_failure_at_once(make_run: RunMaker) -> None:
    with make_run(image="UPPER:case:twice") as run, pytest.raises(JobInfrastructureError, match="InvalidImageName"):
        command(run, "true").result(20)


def test_image_without_python_is_a_launch_failure(make_run: RunMaker) -> None:
    with make_run(image="localhost/pause:1") as run, pytest.raises(JobInfrastructureError, match="python3"):
        command(run, "true").result(40)


def test_secret_that_is_missing_is_a_launch_failure(make_run: RunMaker) -> None:
    with make_run(env_from_secrets="nobody-made-it") as run, pytest.raises(JobInfrastructureError, match="nobody-made"):
        command(run, "true").result(40)


def test_another_python_in_the_image_is_reported_as_that(make_run: RunMaker) -> None:
    if sys.version_info[:2] == (3, 11):
        pytest.skip("the other image's Python is 3.11, and so is this one")
    with make_run(image="localhost/python:3.11") as run:
        job = call(run, os.getpid)
        with pytest.raises(JobInfrastructureError, match=r"packed by Python .* the node runs Python 3\.11"):
            job.result(60)
        assert job.reason is ExitReason.ENVIRONMENT_MISMATCH
        assert command(run, "echo fine").result(60).stdout == "fine\n"


def test_module_that_the_image_lacks_is_named(run: Run) -> None:
    def use() -> None:
        import numpy_that_is_not_there  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="numpy_that_is_not_there"):
        call(run, use).result(60)


def test_more_cores_than_any_node_has_never_start_and_say_so(make_run: RunMaker) -> None:
    with make_run(cpu_request="") as run:
        job = call(run, os.getpid, cores=500)
        with pytest.raises(QueueTimeout, match=r"no node has cores=500.*Insufficient cpu"):
            job.result(30)
        assert job.reason is ExitReason.NEVER_STARTS


def test_job_that_waits_for_room_says_what_it_waits_for(make_run: RunMaker) -> None:
    with make_run(cpu_request="1100m") as run:
        busy = started(run, "sleep 300", cores=2)
        job = command(run, "true", cores=2)
        wait_for(lambda: "Insufficient cpu" in job.record.detail)
        assert job.state is JobState.PENDING
        busy.cancel()
        assert job.result(60).exit_code == 0


def test_pod_deleted_by_hand_is_cancelled_outside_and_runs_no_second_time(
    make_run: RunMaker, kubernetes: Cluster, tmp_path: Path
) -> None:
    place = tmp_path / "starts"
    place.mkdir()
    with make_run(volumes=f"hostpath:{place}:/starts") as run:
        job = started(run, 'echo >"/starts/$POD_NAME"; echo here; sleep 300')
        wait_for(lambda: "here" in job.logs().stdout)
        kubernetes.kubectl("delete", "pod", "-l", f"clusterjobs/job={job.native_id}", "--wait=false")
        with pytest.raises(JobCancelled, match="somebody else"):
            job.result(10)
        assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE)
        assert job.logs().stdout == "here\n"
    assert len(list(place.iterdir())) == 1


def test_job_deleted_by_hand_is_cancelled_outside(run: Run, kubernetes: Cluster) -> None:
    job = started(run, "sleep 300")
    kubernetes.kubectl("delete", "job", job.native_id, "--wait=false")
    with pytest.raises(JobCancelled, match="somebody else"):
        job.result(10)


def test_cancel_ends_soon_and_takes_everything_with_it(run: Run, kubernetes: Cluster) -> None:
    job = started(run, "sleep 300")
    began = time.monotonic()
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(20)
    assert time.monotonic() - began < 3
    kubernetes.wait_for("the job to be gone", lambda: not left(kubernetes, run), 30)


# ---------------------------------------------------------------- outages


def test_api_server_killed_under_the_watch_changes_no_state_and_loses_no_result(run: Run, kubernetes: Cluster) -> None:
    job = started(run, "sleep 3; echo survived")
    kubernetes.kill_api_server()
    waiting = command(run, "echo submitted in the dark")
    assert waiting.state is JobState.NEW or waiting.state is JobState.PENDING
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert job.state is JobState.RUNNING
        assert not waiting.state.is_terminal
        time.sleep(0.05)
    assert "does not answer" in waiting.record.detail
    kubernetes.start_api_server()
    assert job.result(60).stdout == "survived\n"
    assert waiting.result(90).stdout == "submitted in the dark\n"


def test_cancel_while_the_api_server_is_away_is_done_when_it_is_back(run: Run, kubernetes: Cluster) -> None:
    job = started(run, "sleep 300")
    kubernetes.kill_api_server()
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(20)
    kubernetes.start_api_server()
    kubernetes.wait_for("the job to be gone", lambda: not left(kubernetes, run), 30)


def test_node_that_is_silent_is_a_node_failure(run: Run, kubernetes: Cluster) -> None:
    job = started(run, "sleep 300")
    kubernetes.tell_node("kill")
    try:
        wait_for(lambda: "does not answer" in job.record.detail, within_s=30)
        assert job.state is JobState.RUNNING
        with pytest.raises(JobInfrastructureError, match="lost its node"):
            job.result(90)
        assert job.reason is ExitReason.NODE_FAILURE
    finally:
        kubernetes.tell_node("start")
    kubernetes.wait_for("the job to be deleted", lambda: not left(kubernetes, run), 90)
    # A kubelet of 1.20 that was started again does not let go of a pod whose Secret is gone.
    kubernetes.kubectl("delete", "pod", "-l", f"clusterjobs/run={run.run_id}", "--force", "--grace-period=0")


# ---------------------------------------------------------------- rights and quotas


def needed_rights() -> list[dict[str, list[str]]]:
    from pytest_clusterjobs.backends.kubernetes import RIGHTS

    return [{"apiGroups": [group], "resources": [kind], "verbs": list(verbs)} for group, kind, verbs in RIGHTS]


def test_rights_that_are_listed_suffice_and_the_token_is_shown_nowhere(
    make_run: RunMaker, kubernetes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    file = kubernetes.make_team("enough", needed_rights(), tmp_path / "kubeconfig")
    token = json.loads(file.read_text())["users"][0]["user"]["token"]
    monkeypatch.setenv("KUBECONFIG", str(file))
    with make_run(namespace="enough") as run:
        probe = run.probe("site")
        assert probe.is_available, probe.reason
        assert call(run, lambda: os.environ["POD_NAMESPACE"]).result(60) == "enough"
        job = started(run, "sleep 300")
        wait_for(lambda: job.record.native_id != "")
        shown = repr(run.backend("site")) + repr(probe) + repr(job.record) + str(run.problems) + caplog.text
        assert token not in shown
        files = [path for path in Path(run.directory).rglob("*") if path.is_file()]
        assert [path for path in files if token.encode() in path.read_bytes()] == []


def test_missing_rights_are_named_by_the_probe_and_by_a_submission(
    make_run: RunMaker, kubernetes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list"]}]
    file = kubernetes.make_team("too-little", rules, tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(file))
    with make_run() as run:
        probe = run.probe("site")
        assert not probe.is_available
        assert "not allowed in namespace too-little: create jobs, get jobs, delete jobs, list pods" in probe.reason
        with pytest.raises(SubmitError, match=r"cannot create secrets in namespace too-little: 403 Forbidden"):
            command(run, "true")


def test_quota_on_jobs_refuses_naming_it(make_run: RunMaker, kubernetes: Cluster) -> None:
    kubernetes.make_quota("no-jobs", **{"count_jobs.batch": "0"})
    with make_run(namespace="no-jobs") as run, pytest.raises(SubmitError, match=r"exceeded quota: q"):
        command(run, "true")


def test_quota_on_pods_ends_a_job_that_gets_none_naming_it(make_run: RunMaker, kubernetes: Cluster) -> None:
    kubernetes.make_quota("no-pods", pods="0")
    with make_run(namespace="no-pods") as run:
        job = command(run, "true")
        with pytest.raises(JobInfrastructureError, match=r"FailedCreate.*exceeded quota: q"):
            job.result(40)
        assert job.reason is ExitReason.LAUNCH_FAILURE


def test_quota_that_our_own_jobs_use_up_is_waited_for(make_run: RunMaker, kubernetes: Cluster) -> None:
    kubernetes.make_quota("one-job", **{"count_jobs.batch": "1"})
    with make_run(namespace="one-job") as run:
        jobs = run.submit([command_work(f"echo {number}", JobSpec()) for number in range(3)])
        assert [job.result(90).stdout for job in jobs] == ["0\n", "1\n", "2\n"]


# ---------------------------------------------------------------- many


def test_a_hundred_jobs_share_one_watch_and_cost_few_requests(make_run: RunMaker, kubernetes: Cluster) -> None:
    before = len(kubernetes.requests())
    with make_run() as run:
        jobs = run.submit([command_work(f"echo {number}", JobSpec()) for number in range(100)])
        assert [job.result(300).stdout for job in jobs] == [f"{number}\n" for number in range(100)]
        requests = [each for each in kubernetes.requests()[before:] if "kubectl" not in each["userAgent"]]
    refs = [each for each in requests if "objectRef" in each]
    kinds = Counter((each["verb"], each["objectRef"]["resource"]) for each in refs)
    assert kinds["watch", "pods"] <= 10  # each lasts a minute
    assert kinds["list", "pods"] == 1
    assert kinds["create", "jobs"] == kinds["create", "secrets"] == 100
    assert sum(kinds.values()) < 6 * len(jobs), kinds
