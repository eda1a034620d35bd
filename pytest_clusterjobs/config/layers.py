"""`Configuration`: the layers of the files, and what comes out for one backend or profile, and from where.

Defaults, the user's file, the project's file, the profile; what pytest or the environment is told lies above and is not
known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_clusterjobs.config import files
from pytest_clusterjobs.config.files import Document, KeyPath
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.core.errors import ConfigError, UnknownBackendError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.core.spec import SPEC_ARGUMENTS, make_spec
from pytest_clusterjobs.core.units import parse_duration

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

#: Gives the names of a backend's options, or None where it does not tell.
OptionNames = Callable[[str], "frozenset[str] | None"]


class Sourced(NamedTuple):
    """A value and where it comes from."""

    value: Any
    #: ``file:line (section)``, a variable, or ``default``.
    origin: str


def load(start: str, backends: Callable[[], Collection[str]], option_names: OptionNames) -> Configuration | None:
    """Read the files that count for a directory; None when there is none.

    Args:
        start: Where the search begins.
        backends: Gives the names of all backends.
        option_names: Gives the names of a backend's options.

    Raises:
        ConfigError: Something is wrong in them; all of it is in the message.
    """
    paths = files.find(start)
    if not paths:
        return None
    from pytest_clusterjobs.config import profiles

    documents, found = [], []
    for path in paths:
        try:
            document = files.read(path)
        except ConfigError as error:
            found.append(str(error))
        else:
            documents.append(document)
            found += profiles.problems(document)
    configuration = Configuration(documents, tuple(backends()))
    found += configuration.problems(option_names)
    if found:
        found = sorted(found, key=lambda problem: _file_and_line(problem, paths))
        raise ConfigError("\n".join([f"the configuration has {len(found)} error{'s'[: len(found) > 1]}:", *found]))
    return configuration


class Configuration:
    """What the files say together.

    Args:
        documents: The user's before the project's.
        backends: Names of all backends.
    """

    def __init__(self, documents: Sequence[Document], backends: tuple[str, ...]) -> None:
        #: The files' paths.
        self.paths = tuple(document.path for document in documents)
        self._documents = documents
        self._backends = backends
        #: Names of the profiles, those that are backends' too.
        self.profiles = tuple(
            dict.fromkeys(str(name) for document in documents for name in _mapping(document.data.get("profiles")))
        )

    # ------------------------------------------------------------ what a name means

    def backend_of(self, name: str) -> str:
        """Give the backend of a profile, or of a backend; "" where a wrong profile names none."""
        for each in reversed(self._line_of(name)):
            if backend := self._word(each, "backend"):
                return backend
            if each in self._backends:
                return each
        return name if name in self._backends else ""

    def shared(self) -> dict[str, Sourced]:
        """Give what counts for every backend and profile, as `settings` does."""
        found: dict[str, Sourced] = {}
        for document in self._documents:
            found.update(_flat(document, ("defaults",)))
        return found

    def settings(self, name: str) -> dict[str, Sourced]:
        """Give what counts for a backend or a profile: by key, and ``env.NAME`` and so on for mappings.

        Raises:
            UnknownBackendError: There is neither.
        """
        self.require(name)
        backend = self.backend_of(name)
        line = self._line_of(name)
        below = [backend] if backend in self.profiles and backend not in line else []
        sections = [(document, ("profiles", each)) for each in [*below, *line] for document in self._documents]
        is_far = any("host" in _section(*section) for section in sections)
        found = {"backend": Sourced(backend, "its name")}
        found.update(self.shared())
        if is_far:
            found.pop("workdir", None)  # that is a directory here
        for document, path in sections:
            found.update(_flat(document, path, is_far=is_far))
        found.pop("extends", None)
        return found

    def require(self, name: str) -> str:
        """Give the name of a backend or a profile back.

        Raises:
            UnknownBackendError: There is neither; the message lists them and the nearest.
        """
        if name in self._backends or name in self.profiles:
            return name
        own = [profile for profile in self.profiles if profile not in self._backends]
        hint = nearest(name, [*self._backends, *own])
        also = f"; profiles: {', '.join(own)}" if own else ""
        raise UnknownBackendError(
            f"no backend or profile named {name!r}; known: {', '.join(self._backends)}{also}{hint}"
        )

    def place(self, name: str, overridden: Collection[str] = ()) -> Place:
        """Give a backend or a profile in the engine's words.

        Args:
            name: What users write.
            overridden: Keys that somebody above the files has given.

        Raises:
            UnknownBackendError: There is neither.
        """
        own = self.settings(name)
        settings = {key: own[key].value for key in own if key not in overridden or (key == "workdir" and "host" in own)}
        job = {key: value for key, value in settings.items() if key in SPEC_ARGUMENTS and key != "backend"}
        if env := _under("env.", settings):
            job["env"] = env
        return Place(
            name,
            settings["backend"],
            make_spec(**job) if job else None,
            host=_texts(settings.get("host")),
            python=settings.get("python"),
            command_timeout_s=_seconds(settings.get("command_timeout")),
            lost_after_s=_seconds(settings.get("lost_after")),
            workdir=settings.get("workdir"),
            max_jobs=settings.get("max_jobs"),
            timeout_factor=float(settings.get("timeout_factor", 1)),
            is_serial=settings.get("serial", False),
            directives_skip=_texts(settings.get("directives_skip")),
            options=_under("options.", settings),
        )

    def owners(self, name: str) -> tuple[str, ...]:
        """Give whose credentials count for a profile or backend: its own, those that it extends, the backend's."""
        return tuple(dict.fromkeys([*reversed(self._line_of(name)), self.backend_of(name) or name]))

    def _line_of(self, name: str) -> list[str]:
        """Give a profile after those that it extends; a circle ends where it would begin again."""
        line: list[str] = []
        while name in self.profiles and name not in line:
            line.append(name)
            name = self._word(name, "extends")
        return line[::-1]

    def _word(self, profile: str, key: str) -> str:
        found = ""
        for document in self._documents:
            value = _section(document, ("profiles", profile)).get(key)
            found = value if isinstance(value, str) else found
        return found

    # ------------------------------------------------------------ what is wrong between them

    def problems(self, option_names: OptionNames) -> Iterator[str]:
        """Give what is wrong with names: of backends, of profiles, of options. Files may be wrong otherwise too."""
        for document in self._documents:
            for profile in _mapping(document.data.get("profiles")):
                for path, problem in self._about(document, str(profile), option_names):
                    yield f"{document.place(path)}: {files.dotted(path)}: {problem}"

    def _about(self, document: Document, name: str, option_names: OptionNames) -> Iterator[tuple[KeyPath, str]]:
        path: KeyPath = ("profiles", name)
        section = _section(document, path)
        backend, extends = section.get("backend"), section.get("extends")
        if isinstance(backend, str) and backend not in self._backends:
            hint = nearest(backend, self._backends)
            yield (*path, "backend"), f"no backend named {backend!r}; known: {', '.join(self._backends)}{hint}"
        elif isinstance(backend, str) and name in self._backends and backend != name:
            yield (*path, "backend"), f"a profile with a backend's name changes that backend; it cannot be {backend!r}"
        if isinstance(extends, str) and extends not in self.profiles:
            hint = nearest(extends, self.profiles)
            yield (*path, "extends"), f"no profile named {extends!r}; known: {', '.join(self.profiles)}{hint}"
        elif isinstance(extends, str) and self._is_circle(name):
            circle = " -> ".join([*reversed(self._line_of(name)), name])
            yield (*path, "extends"), f"profiles extend each other in a circle: {circle}"
        elif not (whole := self.backend_of(name)):
            if extends is None or extends in self.profiles:
                yield path, f"names no backend; add backend, one of: {', '.join(self._backends)}"
        elif whole in self._backends:
            yield from self._about_options(path, section, whole, option_names(whole))

    def _is_circle(self, name: str) -> bool:
        """Tell whether a profile extends itself, over others or not."""
        return self._word(self._line_of(name)[0], "extends") == name

    @staticmethod
    def _about_options(
        path: KeyPath, section: Mapping[Any, Any], backend: str, known: frozenset[str] | None
    ) -> Iterator[tuple[KeyPath, str]]:
        if known is None:
            return
        for option in _mapping(section.get("options")):
            if option not in known:
                has = f"known: {', '.join(sorted(known))}" if known else "it has none"
                yield (
                    (*path, "options", str(option)),
                    f"the backend {backend} has no option {option!r}; {has}{nearest(str(option), known)}",
                )


# ---------------------------------------------------------------- small things


def _file_and_line(problem: str, paths: Sequence[str]) -> tuple[int, int]:
    number = next(index for index, path in enumerate(paths) if problem.startswith(path))
    line = problem.removeprefix(f"{paths[number]}:").partition(":")[0]
    return number, int(line) if line.isdigit() else 0


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _section(document: Document, path: KeyPath) -> Mapping[Any, Any]:
    found: Mapping[Any, Any] = document.data
    for part in path:
        found = _mapping(found.get(part))
    return found


def _flat(document: Document, path: KeyPath, *, is_far: bool = False) -> Iterator[tuple[str, Sourced]]:
    """Give a section's settings by key; paths are relative to the file, unless they are of another machine."""
    from pytest_clusterjobs.config.profiles import absolute

    for key, value in _section(document, path).items():
        if key in ("env", "options", "credentials"):
            for name, inner in _mapping(value).items():
                inner = _command(inner, document) if key == "credentials" else inner
                yield f"{key}.{name}", _sourced(inner, document, (*path, key, name))
            continue
        if key == "credential_command":
            value = _command(value, document)
        is_path = key == "workdir" or (key == "python" and ("/" in value or value.startswith("~")))
        if is_path and not is_far:
            value = absolute(value, document)
        yield "partition" if key == "queue" else key, _sourced(value, document, (*path, key))


def _command(value: object, document: Document) -> object:
    """Give the words of a command that runs here, a program with a relative path from the file's place."""
    from pytest_clusterjobs.config.profiles import absolute

    if not isinstance(value, list) or not ("/" in value[0] or value[0].startswith("~")):
        return value
    return [absolute(value[0], document), *value[1:]]


def _sourced(value: object, document: Document, path: KeyPath) -> Sourced:
    section = path[:2] if path[0] == "profiles" else path[:1]
    return Sourced(value, f"{document.place(path)} ({files.dotted(section)})")


def _under(prefix: str, settings: Mapping[str, Any]) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _seconds(value: object) -> float | None:
    return None if value is None else parse_duration(value)


def _texts(value: object) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
