"""From a place that users name to a backend that speaks to it."""

from __future__ import annotations

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Backend, BackendSettings
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.transports.base import Transport
from pytest_clusterjobs.transports.local import LocalTransport

#: The Python that runs jobs where nothing is known of ours, unless a profile names one.
FAR_PYTHON = "python3"


def backend_alone(name: str) -> Place:
    """Give the place that a backend is without any configuration.

    Raises:
        UnknownBackendError: There is no such backend.
    """
    return Place(registry.require(name), name)


def open_backend(place: Place, settings: Settings) -> Backend:
    """Make the backend of a place, with the way there.

    Raises:
        UnknownBackendError: There is none of that name.
    """
    transport: Transport = LocalTransport()
    if place.host is not None:
        from pytest_clusterjobs.transports.ssh import SSHTransport

        transport = SSHTransport(place.host)
    own = BackendSettings(
        place.command_timeout_s or settings.command_timeout_s,
        place.python or settings.python,
        place.options,
        place.directives_skip,
    )
    return registry.create(place.backend, transport, own)
