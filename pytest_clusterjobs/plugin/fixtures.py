"""The fixtures. Light, as it is loaded in every pytest run: their values' types are in `fixture_types`.

PYTEST_DONT_REWRITE: there is no assert here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_clusterjobs.config.settings import Settings
    from pytest_clusterjobs.engine.validator import ClusterJobValidator
    from pytest_clusterjobs.plugin.credentials import ClusterCredentials
    from pytest_clusterjobs.plugin.fixture_types import ClusterBackend, ClusterJobs
    from pytest_clusterjobs.plugin.performance import ClusterPerformance
    from pytest_clusterjobs.plugin.session import ClusterSession

__all__ = [
    "cluster_backend",
    "cluster_config",
    "cluster_credentials",
    "cluster_job_validator",
    "cluster_jobs",
    "cluster_performance",
    "cluster_workdir",
]


@pytest.fixture(scope="session")
def cluster_backend(request: pytest.FixtureRequest) -> ClusterBackend:
    """The backend that the test's jobs go to: its name, what its probe found, its capabilities.

    With several backends in --cluster, tests that use it are parametrized over them.
    """
    from pytest_clusterjobs.plugin.fixture_types import ClusterBackend
    from pytest_clusterjobs.plugin.session import of

    return ClusterBackend(of(request.config), getattr(request, "param", None))


@pytest.fixture
def cluster_jobs(request: pytest.FixtureRequest, cluster_backend: ClusterBackend) -> Iterator[ClusterJobs]:
    """Submits functions, commands and scripts as jobs; what the test leaves running is cancelled at its end."""
    from pytest_clusterjobs.plugin.fixture_types import ClusterJobs
    from pytest_clusterjobs.plugin.session import of

    jobs = ClusterJobs(of(request.config).run)
    yield jobs
    jobs.cancel_unfinished()


@pytest.fixture
def cluster_workdir(request: pytest.FixtureRequest, cluster_backend: ClusterBackend) -> Iterator[Path]:
    """A fresh directory that the nodes see under the same path; removed at the end as --cluster-keep says.

    Where the nodes see no files of this machine, over SSH or on Kubernetes, the test is skipped.
    """
    from pytest_clusterjobs.plugin.items import FAILED
    from pytest_clusterjobs.plugin.session import of

    if not cluster_backend.backend.sees_files:
        pytest.skip(f"{cluster_backend.name}: its nodes see no files of this machine, and so no cluster_workdir")
    session = of(request.config)
    path = _make_workdir(session, request.node.name)
    yield path
    policy, failed = session.values.keep, request.node.stash.get(FAILED, False)
    if policy == "always" or (policy == "failed" and failed):
        session.kept.append(str(path))
    else:
        session.run.store.transport.remove(str(path))


@pytest.fixture
def cluster_credentials(request: pytest.FixtureRequest, cluster_backend: ClusterBackend) -> ClusterCredentials:
    """Passwords and tokens for the test's backend or profile by name, fetched when asked for and shown nowhere."""
    from pytest_clusterjobs.plugin.credentials import ClusterCredentials
    from pytest_clusterjobs.plugin.session import of

    session, name = of(request.config), cluster_backend.name
    return ClusterCredentials(session.configured.credentials(name), is_required=name in session.selection.required)


@pytest.fixture
def cluster_performance(request: pytest.FixtureRequest, cluster_backend: ClusterBackend) -> ClusterPerformance:
    """Takes figures that the test measures itself, to be compared with the references of its marker or of a file."""
    from pytest_clusterjobs.plugin.performance import recorder_of

    return recorder_of(request.node)


@pytest.fixture
def cluster_job_validator(cluster_backend: ClusterBackend) -> ClusterJobValidator:
    """Compares what jobs asked for with what they were given and found: submission, environment, resources, output."""
    from pytest_clusterjobs.engine.validator import ClusterJobValidator

    return ClusterJobValidator()


@pytest.fixture(scope="session")
def cluster_config(request: pytest.FixtureRequest) -> Settings:
    """The settings of this run: work directory, keep policy, limits."""
    from pytest_clusterjobs.plugin.session import of

    return of(request.config).settings


_numbers = itertools.count(1)


def _make_workdir(session: ClusterSession, name: str) -> Path:
    from pathlib import Path

    from pytest_clusterjobs.core.naming import slug

    run = session.run
    run.store.open()
    path = Path(session.files_directory, f"{next(_numbers)}-{slug(name)}")
    run.store.transport.make_directory(str(path))
    return path
