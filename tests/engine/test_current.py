"""Which run decorated calls go to, and where none may be submitted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import UsageError
from pytest_clusterjobs.engine import current
from pytest_clusterjobs.engine.run import Run


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CLUSTERJOBS_JOB_ID", "CLUSTERJOBS_NESTED"):
        monkeypatch.delenv(name, raising=False)
    provider, refusal = current.provide(None), current.refuse(None)
    yield
    current.provide(provider)
    current.refuse(refusal)


def test_provider_is_asked_at_each_call_and_gives_way_to_the_one_before(tmp_path: Path) -> None:
    first, second = (Run(Settings(workdir=str(tmp_path / name))) for name in "ab")
    assert current.provide(lambda: first) is None
    before = current.provide(lambda: second)
    assert current.current() is second
    current.provide(before)
    assert current.current() is first


def test_without_a_provider_one_run_is_made_and_closed_at_the_end(tmp_path: Path) -> None:
    program = """
from pytest_clusterjobs import cluster
from pytest_clusterjobs.engine.current import current
@cluster
def add(a, b):
    return a + b
print(add(1, 2), current() is current(), current().directory)
"""
    root = str(Path(current.__file__).parents[2])
    environment = {"PATH": "/usr/bin:/bin", "CLUSTERJOBS_WORKDIR": str(tmp_path / "work"), "PYTHONPATH": root}
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["3", "True", done.stdout.split()[-1]], done.stderr
    assert done.stdout.split()[-1].startswith(str(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_refusal_is_raised_until_it_is_lifted() -> None:
    current.refuse_now()
    assert current.refuse("not while collecting") is None
    with pytest.raises(UsageError, match="not while collecting"):
        current.refuse_now()
    assert current.refuse(None) == "not while collecting"
    current.refuse_now()


@pytest.mark.parametrize(("nested", "is_refused"), [(None, True), ("local", True), ("error", True), ("submit", False)])
def test_job_may_submit_only_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, nested: str | None, is_refused: bool
) -> None:
    monkeypatch.setenv("CLUSTERJOBS_JOB_ID", "1")
    if nested:
        monkeypatch.setenv("CLUSTERJOBS_NESTED", nested)
    if not is_refused:
        current.refuse_now()
        return
    with pytest.raises(UsageError, match=r"\.local\(\.\.\.\).*CLUSTERJOBS_NESTED=submit"):
        current.refuse_now()
