"""Backends by name: built in, registered, or announced by other distributions; none is loaded before it is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Backend, BackendSettings
from pytest_clusterjobs.backends.local import LocalBackend
from pytest_clusterjobs.backends.slurm import SlurmBackend
from pytest_clusterjobs.core.errors import ConfigError, UnknownBackendError
from pytest_clusterjobs.transports.base import Transport
from pytest_clusterjobs.transports.local import LocalTransport


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def create(name: str) -> Backend:
    return registry.create(name, LocalTransport(), BackendSettings())


def announce(folder: Path, monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Have a distribution on the path announce backends."""
    info = folder / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINT_GROUP}]\n{lines}")
    monkeypatch.syspath_prepend(str(folder))


def test_built_in_backends_are_known_and_made() -> None:
    assert {"local", "slurm"} <= set(registry.names())
    made = create("slurm")
    assert type(made) is SlurmBackend
    made.close()


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_module_class_and_name_agree(name: str) -> None:
    module, _, attribute = registry._BUILT_IN[name].partition(":")
    kind = getattr(__import__(module, fromlist=[attribute]), attribute)
    assert (kind.name, module.rpartition(".")[2]) == (name, name)


def test_nothing_of_a_backend_is_loaded_before_it_is_asked_for() -> None:
    program = """
import sys
from pytest_clusterjobs.backends import registry
registry.names(); registry.require("slurm")
print(sorted(name for name in sys.modules if name.startswith("pytest_clusterjobs.backends.")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pytest_clusterjobs.backends.base', 'pytest_clusterjobs.backends.registry']"


@pytest.mark.parametrize(("name", "hint"), [("slrum", "did you mean 'slurm'?"), ("Local", "did you mean 'local'?")])
def test_unknown_name_lists_the_known_and_the_nearest(name: str, hint: str) -> None:
    for use in (registry.require, create):
        with pytest.raises(UnknownBackendError, match=f"no backend named '{name}'; known: local, slurm") as caught:
            use(name)
        assert hint in str(caught.value)


def test_registered_backend_is_made_by_its_factory() -> None:
    asked: list[BackendSettings] = []

    def factory(transport: Transport, settings: BackendSettings) -> Backend:
        asked.append(settings)
        return SlurmBackend(transport, settings)

    registry.register("mine", factory)
    assert registry.require("mine") == "mine"
    assert "mine" in registry.names()
    assert type(registry.create("mine", LocalTransport(), BackendSettings(7))) is SlurmBackend
    assert asked == [BackendSettings(7)]


def test_name_is_given_once() -> None:
    registry.register("mine", SlurmBackend)
    registry.register("mine", SlurmBackend)
    for name in ("mine", "slurm"):
        with pytest.raises(ConfigError, match=f"a backend named '{name}' exists already"):
            registry.register(name, LocalBackend)


def test_announced_backend_is_known_and_loaded_when_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(tmp_path, monkeypatch, announced="announced_backend:Announced")
    assert registry.require("announced") == "announced"
    assert "announced_backend" not in sys.modules
    (tmp_path / "announced_backend.py").write_text(
        "from pytest_clusterjobs.backends.slurm import SlurmBackend\n"
        "class Announced(SlurmBackend):\n    name = 'announced'\n"
    )
    try:
        assert create("announced").name == "announced"
    finally:
        sys.modules.pop("announced_backend", None)


@pytest.mark.parametrize("target", ["no_such_module:X", "os:NoSuchClass"])
def test_announced_backend_that_cannot_be_loaded_says_by_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    announce(tmp_path, monkeypatch, broken=target)
    with pytest.raises(ConfigError, match=f"the backend 'broken' is announced as '{target}', which cannot be loaded"):
        create("broken")


def test_announced_backend_takes_no_name_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(tmp_path, monkeypatch, slurm="evil:Backend")
    assert type(create("slurm")) is SlurmBackend
    assert registry.names().count("slurm") == 1
