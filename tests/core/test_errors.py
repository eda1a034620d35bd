"""Errors cross processes, and the tree in the module's docstring is true."""

from __future__ import annotations

import builtins
import copy
import importlib
import inspect
import pickle
import pkgutil
import re
from typing import Any, NamedTuple

import pytest

import pytest_clusterjobs
from pytest_clusterjobs.core import errors
from pytest_clusterjobs.core.errors import ClusterJobsError, is_infrastructure


class Row(NamedTuple):
    """A line of the tree in the docstring."""

    depth: int
    name: str
    builtin: str
    notes: str


_ROW = re.compile(r"^    (?P<stem>[ │├└─]*)(?P<name>[A-Z]\w+)(?: \((?P<builtin>\w+)\))?(?P<notes>.*)$")


def tree() -> list[Row]:
    rows = []
    for line in (errors.__doc__ or "").splitlines():
        if (match := _ROW.match(line)) and not line.startswith("     " * 3):
            rows.append(Row(len(match["stem"]) // 4, match["name"], match["builtin"] or "", match["notes"]))
    return rows


def defined() -> list[type[ClusterJobsError]]:
    return [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, ClusterJobsError) and kind.__module__ == errors.__name__
    ]


def everywhere() -> list[type[ClusterJobsError]]:
    """All of this package, also those that are defined beside what raises them."""
    for module in pkgutil.walk_packages(pytest_clusterjobs.__path__, "pytest_clusterjobs."):
        if "._" not in module.name and not module.name.startswith("pytest_clusterjobs.testing"):
            importlib.import_module(module.name)
    found: list[type[ClusterJobsError]] = []
    waiting = [ClusterJobsError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.startswith("pytest_clusterjobs."):
            found.append(kind)
            waiting += kind.__subclasses__()
    return sorted(set(found), key=lambda kind: kind.__qualname__)


def sample(kind: type[ClusterJobsError]) -> ClusterJobsError:
    """Make one with a telling text for every argument."""
    if not inspect.isfunction(kind.__init__):
        return kind("the message")
    names = list(inspect.signature(kind).parameters)
    return kind(*[f"the {name}" for name in names])


@pytest.mark.parametrize("kind", everywhere(), ids=lambda kind: kind.__name__)
class TestEveryError:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_it_survives_pickling_with_all_it_says(self, kind: type[ClusterJobsError], protocol: int) -> None:
        error: Any = sample(kind)
        error.__notes__ = ["a note"]
        twin = pickle.loads(pickle.dumps(error, protocol))
        assert type(twin) is kind
        assert (twin.args, str(twin), vars(twin)) == (error.args, str(error), vars(error))

    def test_it_survives_copying(self, kind: type[ClusterJobsError]) -> None:
        error = sample(kind)
        assert str(copy.deepcopy(error)) == str(copy.copy(error)) == str(error)

    def test_its_text_has_every_argument(self, kind: type[ClusterJobsError]) -> None:
        error = sample(kind)
        assert [each for each in error.args if str(each) not in str(error)] == []

    def test_its_docstring_says_what_it_means(self, kind: type[ClusterJobsError]) -> None:
        assert kind.__doc__
        assert "__doc__" in vars(kind)
        assert kind.__doc__.strip().splitlines()[0].endswith(".")


class TestTree:
    def test_every_error_is_in_it_once(self) -> None:
        assert sorted(row.name for row in tree()) == sorted(kind.__name__ for kind in defined())

    def test_it_shows_the_classes_parents(self) -> None:
        path: list[str] = []
        for row in tree():
            kind: Any = getattr(errors, row.name)
            del path[row.depth :]
            expected = [path[-1]] if path else ["Exception"]
            expected += [row.builtin] if row.builtin else []
            assert [base.__name__ for base in kind.__bases__] == expected, row.name
            path.append(row.name)

    def test_its_builtin_parents_are_builtin(self) -> None:
        assert {row.builtin for row in tree() if row.builtin} <= set(vars(builtins))

    def test_its_notes_are_the_attributes(self) -> None:
        inherited: list[set[str]] = []
        for row in tree():
            kind: Any = getattr(errors, row.name)
            notes = set(re.findall(r"\[(transient|infrastructure)\]", row.notes))
            del inherited[row.depth :]
            if inherited and "infrastructure" in inherited[-1] and "infrastructure" in vars(kind):
                assert not kind.infrastructure  # it says so because it differs
                notes.discard("infrastructure")
            elif inherited and "infrastructure" in inherited[-1]:
                notes.add("infrastructure")
            assert notes == {name for name in ("transient", "infrastructure") if getattr(kind, name)}, row.name
            inherited.append(notes)


class TestIsInfrastructure:
    def test_only_our_errors_can_be_the_clusters_trouble(self) -> None:
        class Foreign(Exception):
            infrastructure = True

        assert is_infrastructure(errors.JobLost("gone"))
        assert not is_infrastructure(errors.JobFailed("exit 1"))
        assert not is_infrastructure(errors.SubmitError("no such partition"))
        assert not is_infrastructure(Foreign())
        assert not is_infrastructure(None)


def test_a_backend_error_shows_the_command_and_what_it_said() -> None:
    error = errors.SubmitError("refused", "slurm", "sbatch x.sh", "sbatch: error: Invalid partition\n")
    assert str(error) == "slurm: refused\n  command: sbatch x.sh\n  stderr: sbatch: error: Invalid partition"
    assert str(errors.BackendError("no answer")) == "no answer"


def test_a_brief_error_is_a_line_with_the_end_of_what_the_command_said() -> None:
    error = errors.SubmitError("refused", "slurm", "sbatch x.sh", "sbatch: warning\nsbatch: error: Invalid partition\n")
    assert error.brief == "refused (sbatch: error: Invalid partition)"
    assert errors.BackendError("no answer").brief == "no answer"
    assert errors.UsageError("not here").brief == "not here"
