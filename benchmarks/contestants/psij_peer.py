"""PSI/J with its defaults: commands as jobs, no arrays. Run by the Python of the peers."""

from __future__ import annotations

import sys

import psij  # type: ignore[import-not-found]  # it is there for the peers' Python

from benchmarks.contestants.protocol import serve


def main(backend: str) -> None:
    """Serve with jobs of PSI/J's executor for a backend."""
    executor = psij.JobExecutor.get_instance(backend)

    def many(count: int) -> None:
        jobs = [psij.Job(psij.JobSpec(executable=sys.executable, arguments=["-c", "pass"])) for _ in range(count)]
        for job in jobs:
            executor.submit(job)
        for job in jobs:
            status = job.wait()
            assert status is not None, job
            assert status.state is psij.JobState.COMPLETED, status

    serve({"one": many, "separate": many})


if __name__ == "__main__":
    main(sys.argv[1])
