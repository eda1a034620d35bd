"""The markers' names and signatures, and how decorated tests are found. Light: loaded in every pytest run.

PYTEST_DONT_REWRITE: there is no assert here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_clusterjobs.decorator import ClusterFunction

#: For ``pytest --markers``: the whole signature, and what it means.
LINES = (
    "real_world: the test needs a cluster; it runs with `-m real_world` or --cluster, else it is skipped.",
    "expensive: the test costs much; it runs only with --run-expensive or a `-m` that names it.",
    "cluster(*backends, cores=1, memory=None, time=None, gpus=0, nodes=1, partition=None, queue=None, account=None, "
    "qos=None, constraint=None, env=None, modules=(), prologue=(), epilogue=(), extra_args=(), extra_directives=(), "
    "name=None, backend=None, parallel=False, timeout=None, queue_timeout=None, keep=None, inherit_env=True, "
    "validate=None): the test is real_world and runs only on these backends, if any are named; the rest are defaults "
    "for the jobs that it submits. validate=True fails it where a job did not get what it asked for.",
    "no_cluster(*backends): the test does not run on these backends.",
    "cluster_xfail(reasons, *, raises=None, strict=None): the test is expected to fail on the backends that are the "
    'keys of reasons, e.g. {"pbs": "no arrays"}; raises and strict are those of xfail.',
    'cluster_performance(references={}, *, metric="run_time_s"): the test fails where a figure of its jobs, or one '
    'that it recorded, is out of bounds; references are e.g. {"slurm": (12.5, None, 0.1, "s")}: value, lower and upper '
    "tolerance as parts of it or None, unit.",
)

NAMES = frozenset({"real_world", "expensive", "cluster", "no_cluster", "cluster_xfail", "cluster_performance"})


def decorated(function: object) -> ClusterFunction[..., Any] | None:
    """Give the `ClusterFunction` that a test function is or wraps; costs nothing while there is none at all."""
    module = sys.modules.get("pytest_clusterjobs.decorator")
    if module is None:
        return None
    kind: type[ClusterFunction[..., Any]] = module.ClusterFunction
    for _ in range(20):  # other decorators may lie above ours; a circle of __wrapped__ must not hang us
        if function is None or isinstance(function, kind):
            return function
        function = getattr(function, "__wrapped__", None)
    return None
