"""Which backends there are, by name. Nothing of a backend is imported before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from pytest_clusterjobs.backends.base import Backend, BackendSettings
from pytest_clusterjobs.core.errors import ConfigError, UnknownBackendError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.transports.base import Transport

#: Makes a backend from a way to its cluster and its settings. A subclass of `Backend` is one.
BackendFactory = Callable[[Transport, BackendSettings], Backend]

#: Entry-point group for backends of other distributions.
ENTRY_POINT_GROUP = "pytest_clusterjobs.backends"

_BUILT_IN = {
    "local": "pytest_clusterjobs.backends.local:LocalBackend",
    "slurm": "pytest_clusterjobs.backends.slurm:SlurmBackend",
    "sge": "pytest_clusterjobs.backends.sge:SgeBackend",
    "kubernetes": "pytest_clusterjobs.backends.kubernetes:KubernetesBackend",
    "pbs": "pytest_clusterjobs.backends.pbs:PbsBackend",
    "lsf": "pytest_clusterjobs.backends.lsf:LsfBackend",
    "ssh": "pytest_clusterjobs.backends.ssh:SshBackend",
}
_registered: dict[str, BackendFactory] = {}


def register(name: str, factory: BackendFactory) -> None:
    """Make a backend known under a name, for this process.

    Raises:
        ConfigError: The name is taken by another factory.
    """
    if name in _BUILT_IN or _registered.get(name, factory) is not factory:
        raise ConfigError(f"a backend named {name!r} exists already; choose another name")
    _registered[name] = factory


def names() -> tuple[str, ...]:
    """Give the names of all backends: built in, registered, and from other distributions."""
    return tuple(dict.fromkeys([*_BUILT_IN, *_registered, *_entry_points()]))


def require(name: str) -> str:
    """Give ``name`` back if there is such a backend.

    Raises:
        UnknownBackendError: There is none; the message lists those there are and the nearest.
    """
    if name in _BUILT_IN or name in _registered or name in _entry_points():
        return name
    raise UnknownBackendError(f"no backend named {name!r}; known: {', '.join(names())}{nearest(name, names())}")


def create(name: str, transport: Transport, settings: BackendSettings) -> Backend:
    """Make the backend of that name.

    Raises:
        UnknownBackendError: There is none.
        ConfigError: A distribution announces it and it cannot be loaded.
    """
    return _factory(require(name))(transport, settings)


def option_names(name: str) -> frozenset[str] | None:
    """Give the names of the options that a backend's settings may hold; None where its factory does not tell.

    Raises:
        UnknownBackendError: There is none of that name.
        ConfigError: A distribution announces it and it cannot be loaded.
    """
    return getattr(_factory(require(name)), "option_names", None)


def host_variable(name: str) -> str | None:
    """Give the variable that names a backend's hosts; None for a backend that is spoken to at one place.

    Raises:
        UnknownBackendError: There is none of that name.
        ConfigError: A distribution announces it and it cannot be loaded.
    """
    return getattr(_factory(require(name)), "host_variable", None)


def can_be_far(name: str) -> bool:
    """Tell whether a backend can be spoken to on another machine.

    Raises:
        UnknownBackendError: There is none of that name.
        ConfigError: A distribution announces it and it cannot be loaded.
    """
    return bool(getattr(_factory(require(name)), "can_be_far", True))


def _factory(name: str) -> BackendFactory:
    if name in _registered:
        return _registered[name]
    target = _BUILT_IN.get(name) or _entry_points()[name]
    module, _, attribute = target.partition(":")
    try:
        return cast(BackendFactory, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the backend {name!r} is announced as {target!r}, which cannot be loaded: {error}"
        ) from error


def _entry_points() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
