"""What the tests of command-line schedulers share: commands that answer what was recorded, and jobs to submit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_clusterjobs.backends.base import Submission
from pytest_clusterjobs.backends.batch import BatchBackend
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.transports.base import CommandResult
from pytest_clusterjobs.transports.local import LocalTransport

PREFIX = "cj-0badcafe-"
NAME = f"{PREFIX}1-solve"

#: A command's exit code, standard output and standard error, or why there is none of them.
Answer = tuple[int, str, str] | Exception


class Answering(LocalTransport):
    """Answers commands by their first words, "" being all of them; files are real."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = {tuple(words.split()): answer for words, answer in answers.items()}
        #: The commands so far.
        self.asked: list[tuple[str, ...]] = []
        #: The variables of each.
        self.environments: list[Mapping[str, str]] = []
        #: The time limit of each, in seconds.
        self.limits_s: list[float] = []

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        said = tuple(argv)
        self.asked.append(said)
        self.environments.append(env or {})
        self.limits_s.append(timeout_s)
        answer = self._answers[max((words for words in self._answers if said[: len(words)] == words), key=len)]
        if isinstance(answer, Exception):
            raise answer
        return CommandResult(said, *answer)


def way_of(backend: BatchBackend) -> Answering:
    """Give the transport of a backend that a test made."""
    assert isinstance(backend.transport, Answering)
    return backend.transport


def submission(
    directory: str = "/jobs/1-solve",
    count: int = 1,
    limit: int | None = None,
    environment: Mapping[str, str] | None = None,
    **spec: Any,
) -> Submission:
    """Give a job to submit, or an array of ``count``, of which ``limit`` may run at a time."""
    many = count > 1
    return Submission(
        name=NAME,
        spec=make_spec(**spec),
        directories=tuple(f"{directory}/{index}" for index in range(count)) if many else (directory,),
        directory=directory,
        markers=tuple(f"/jobs/marks/1.{index}" for index in range(count)) if many else ("/jobs/marks/1",),
        runner="/jobs/node/start.py",
        python="/usr/bin/python3",
        environment=environment or {},
        max_concurrent=limit,
    )


def directives_of(script: str, mark: str) -> list[str]:
    """Give what a script says to the scheduler, without the mark that begins each of these lines."""
    return [line.removeprefix(f"{mark} ") for line in script.splitlines() if line.startswith(f"{mark} ")]
