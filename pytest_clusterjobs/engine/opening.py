"""From a place that users name to a backend that speaks to it."""

from __future__ import annotations

import os

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Backend, BackendSettings
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.transports.base import FarTransport, Transport
from pytest_clusterjobs.transports.local import LocalTransport

#: The Python that runs jobs where nothing is known of ours, unless a profile names one.
FAR_PYTHON = "python3"


def backend_alone(name: str) -> Place:
    """Give the place that a backend is without any configuration.

    Raises:
        UnknownBackendError: There is no such backend.
    """
    return Place(registry.require(name), name)


def open_backend(place: Place, settings: Settings, run_name: str = "") -> Backend:
    """Make the backend of a place, with the ways there.

    Args:
        place: A backend or a profile of one.
        settings: What counts where the place does not say.
        run_name: What this process's part of the run is called.

    Raises:
        UnknownBackendError: There is none of that name.
        ConfigError: It has several hosts, and the backend is spoken to at one; or one, and it is spoken to from here.
    """
    ways = _ways(place)
    transport: Transport = ways[0] if ways else LocalTransport()
    own = BackendSettings(
        place.command_timeout_s or settings.command_timeout_s,
        place.python or (FAR_PYTHON if ways else settings.python),
        place.options,
        place.directives_skip,
        ways,
        (place.host and place.workdir) or "",
        run_name,
    )
    return registry.create(place.backend, transport, own)


def refuse_other(place: Place, settings: Settings) -> None:
    """Raise `ConfigError` where a profile wants something else of the run than it has."""
    for key in ("workdir", "max_jobs"):
        own, ours = getattr(place, key), getattr(settings, key)
        if own is not None and own != ours and not (place.host and key == "workdir"):
            raise ConfigError(
                f"the profile {place.name!r} has {key}={own!r}, and this run has {ours!r}; it is one for the whole "
                f"run: select the profile for it with --cluster={place.name}, or give CLUSTERJOBS_{key.upper()}"
            )


def _ways(place: Place) -> tuple[FarTransport, ...]:
    if place.host and not registry.can_be_far(place.backend):
        raise ConfigError(
            f"{place.name}: the backend {place.backend} is spoken to from here alone, and host names "
            f"{', '.join(place.host)}; the backend ssh runs jobs on hosts as they are"
        )
    variable = registry.host_variable(place.backend)
    if variable is None and len(place.host) > 1:
        raise ConfigError(
            f"{place.name}: the backend {place.backend} is spoken to at one host, and host names {len(place.host)}: "
            f"{', '.join(place.host)}; make a profile for each"
        )
    named = os.environ.get(variable, "") if variable else ""
    hosts = place.host or tuple(dict.fromkeys(filter(None, map(str.strip, named.split(",")))))
    if not hosts:
        return ()
    from pytest_clusterjobs.transports.ssh import SSHTransport

    return tuple(map(SSHTransport, hosts))
