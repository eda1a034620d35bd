"""submitit with its defaults: functions as jobs. Run by the Python of the peers."""

from __future__ import annotations

import sys
import tempfile

import submitit  # type: ignore[import-not-found]  # it is there for the peers' Python

from benchmarks.contestants.protocol import serve


def double(number: int) -> int:
    """Do next to nothing."""
    return 2 * number


def main(backend: str) -> None:
    """Serve with jobs of submitit's executor for a backend."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        executor = submitit.AutoExecutor(folder, cluster=backend)
        executor.update_parameters(timeout_min=5, **({"slurm_array_parallelism": 1000} if backend == "slurm" else {}))
        serve(
            {
                "one": lambda _: executor.submit(double, 1).result(),
                "separate": lambda n: [job.result() for job in [executor.submit(double, i) for i in range(n)]],
                "map": lambda n: [job.result() for job in executor.map_array(double, range(n))],
            }
        )


if __name__ == "__main__":
    main(sys.argv[1])
