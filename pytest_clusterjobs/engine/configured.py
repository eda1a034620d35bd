"""What the configuration files mean for this program: backends and profiles by name, as places for jobs.

Without a file it costs a look at the directories upwards, and nothing is imported.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.config.layers import Configuration, Sourced, load
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.core.errors import ConfigError

if TYPE_CHECKING:
    from pytest_clusterjobs.config.credentials import Credentials
    from pytest_clusterjobs.engine.run import Run

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

#: Keys that one value counts for in a whole run.
OF_THE_RUN = ("workdir", "max_jobs")

#: Keys that have a variable ``CLUSTERJOBS_<KEY>``, above the files.
WITH_VARIABLE = ("keep", "timeout", "queue_timeout", "workdir", "max_jobs")


class Configured:
    """The files that count for a directory, read when they are needed first.

    Args:
        start: Where the search for a project's file begins.
        above: What is given above the files, by key: on the command line, in variables, in pytest's ini file.
        known: Gives the names of all backends.
    """

    def __init__(
        self,
        start: str,
        above: Mapping[str, Sourced] | None = None,
        known: Callable[[], Collection[str]] = registry.names,
    ) -> None:
        self._start, self._known = start, known
        #: What is given above the files.
        self.above = dict(above or {})
        self._credentials: dict[str, Credentials] = {}

    @functools.cached_property
    def configuration(self) -> Configuration | None:
        """What the files say; None without any.

        Raises:
            ConfigError: Something is wrong in them.
        """
        return load(self._start, self._known, registry.option_names)

    @property
    def profiles(self) -> tuple[str, ...]:
        """Names of the profiles that are no backends' names."""
        own = self.configuration.profiles if self.configuration else ()
        return tuple(name for name in own if name not in self._known())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all profiles, those that change a backend too."""
        return self.configuration.profiles if self.configuration else ()

    @property
    def kinds(self) -> dict[str, str]:
        """Profiles' backends, by the profiles' names."""
        configuration = self.configuration
        return {name: configuration.backend_of(name) for name in configuration.profiles} if configuration else {}

    @functools.cached_property
    def serial(self) -> frozenset[str]:
        """Names of the profiles whose tests run one after another."""
        return frozenset(name for name in self.names if self.place(name).is_serial)

    def effective(self, name: str | None = None) -> dict[str, Sourced]:
        """Give what counts for a backend or a profile, or for all of them, with defaults and what lies above the files.

        Raises:
            UnknownBackendError: There is no such backend or profile.
        """
        if name is not None:
            self.require(name)
        found = {key: Sourced(value, "default") for key, value in _defaults().items()}
        if self.configuration is not None:
            found.update(self.configuration.shared() if name is None else self.configuration.settings(name))
        elif name is not None:
            found["backend"] = Sourced(name, "its name")
        is_far = "host" in found
        found.update((key, each) for key, each in self.above.items() if not (is_far and key == "workdir"))
        first = {key: found.pop(key) for key in ("backend",) if key in found}
        return {**first, **dict(sorted(found.items()))}

    def require(self, name: str) -> str:
        """Give the name of a backend or a profile back.

        Raises:
            UnknownBackendError: There is neither.
        """
        return registry.require(name) if self.configuration is None else self.configuration.require(name)

    def place(self, name: str) -> Place:
        """Give a backend or a profile as a place for jobs.

        Raises:
            UnknownBackendError: There is neither.
        """
        if self.configuration is None:
            return Place(registry.require(name), name)
        return self.configuration.place(name, self.above)

    def credentials(self, name: str) -> Credentials:
        """Give the credentials of a backend or a profile. None is fetched before it is asked for.

        Raises:
            UnknownBackendError: There is neither.
        """
        from pytest_clusterjobs.config.credentials import Credentials, OnePassword, usual_sources
        from pytest_clusterjobs.transports.local import LocalTransport

        self.require(name)
        if name not in self._credentials:
            configuration, run = self.configuration, LocalTransport().run
            settings = configuration.settings(name) if configuration else {}
            declared = {
                key.removeprefix("credentials."): each.value
                for key, each in settings.items()
                if key.startswith("credentials.")
            }
            self._credentials[name] = Credentials(
                configuration.owners(name) if configuration else [name],
                declared,
                settings["credential_command"].value if "credential_command" in settings else (),
                usual_sources(self._start, run),
                OnePassword(run).read,
            )
        return self._credentials[name]

    def workdirs(self) -> list[str]:
        """Give the work directories here that files name, each once."""
        places = [self.place(name) for name in (*self._known(), *self.profiles)] if self.configuration else []
        return list(dict.fromkeys(place.workdir for place in places if place.workdir and not place.host))

    def of_the_run(self, names: Iterable[str]) -> dict[str, Any]:
        """Give the work directory and the limit on jobs of a run on these places, where files name them.

        Raises:
            ConfigError: Profiles name different ones.
        """
        places = [self.place(name) for name in names] if self.configuration else []
        found: dict[str, Any] = {}
        for key in OF_THE_RUN:
            values = {place.name: getattr(place, key) for place in places if not (place.host and key == "workdir")}
            if len(set(values.values())) > 1:
                said = ", ".join(f"{name}: {'default' if value is None else value}" for name, value in values.items())
                raise ConfigError(
                    f"{key} is one for the whole run, and the profiles have different ones ({said}); run them one by "
                    f"one, or give --cluster-{key.replace('_', '-')} or CLUSTERJOBS_{key.upper()}"
                )
            found.update((key, value) for value in set(values.values()) if value is not None)
        return found


def standalone(start: str | None = None) -> Configured:
    """Give what counts for a program without pytest: files from the working directory upwards, below variables."""
    return Configured(start or os.getcwd(), from_environment())


def open_run() -> Run:
    """Make the run of a program without pytest."""
    from pytest_clusterjobs.config.settings import Settings
    from pytest_clusterjobs.engine.run import DEFAULT_BACKEND, Run

    configured = standalone()
    own = configured.of_the_run([DEFAULT_BACKEND])
    own.update((key, each.value) for key, each in configured.above.items())
    names = {"timeout": "timeout_s", "queue_timeout": "queue_timeout_s"}
    return Run(Settings(**{names.get(key, key): value for key, value in own.items()}), places=configured.place)


def from_environment() -> dict[str, Sourced]:
    """Give what variables say above the files.

    Raises:
        ConfigError: A value is wrong; the message names the variable.
    """
    found = {}
    for key in WITH_VARIABLE:
        name = f"CLUSTERJOBS_{key.upper()}"
        if text := os.environ.get(name):
            found[key] = Sourced(_checked(key, name, text), name)
    return found


def _defaults() -> dict[str, Any]:
    from pytest_clusterjobs.config.settings import WORKDIR_NAME, Settings

    settings = Settings(workdir=os.path.abspath(WORKDIR_NAME))
    return {
        "command_timeout": settings.command_timeout_s,
        "cores": 1,
        "gpus": 0,
        "keep": settings.keep,
        "lost_after": settings.lost_after_s,
        "nodes": 1,
        "python": settings.python,
        "workdir": settings.workdir,
    }


def _checked(key: str, name: str, text: str) -> Any:
    from pytest_clusterjobs.config.settings import Settings
    from pytest_clusterjobs.core.units import parse_duration

    try:
        if key in ("timeout", "queue_timeout"):
            return parse_duration(text)
        value: Any = int(text) if key == "max_jobs" else os.path.abspath(text) if key == "workdir" else text
        Settings(**{"workdir": os.getcwd(), key: value})
    except ValueError as error:
        raise ConfigError(f"{name}={text!r}: {error}") from None
    return value
