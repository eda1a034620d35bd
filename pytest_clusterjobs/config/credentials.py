"""Credentials: passwords and tokens by name, fetched when they are asked for, from the first source that has them.

In order: environment variables, a ``.env`` file, the system keyring, 1Password, a command. A value is held in memory as
a `Secret`; it is written nowhere, and no variable of this process is set to it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pytest_clusterjobs.config import dotenv
from pytest_clusterjobs.core.errors import ClusterJobsError, ConfigError, CredentialError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.core.redaction import SHORTEST, Secret

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

#: Seconds that a source may take: a password manager may ask somebody for a fingerprint.
TIMEOUT_S = 60.0
#: The service under which the keyring has them; the user name there is ``<profile>/<KEY>``.
SERVICE = "clusterjobs"

KEY = re.compile(r"[A-Z][A-Z0-9_]*")
#: ``op://vault/item/[section/]field``: letters, digits, ``-``, ``_``, ``.`` and spaces, and a query
#: (1Password CLI 2, "Secret reference syntax").
REFERENCE = re.compile(r"op://[\w. -]+(?:/[\w. -]+){2,3}(?:\?[\w=&-]+)?")


class Ended(Protocol):
    """How a command ended."""

    @property
    def returncode(self) -> int:
        """0 when it could do it."""

    @property
    def stdout(self) -> str:
        """What it printed."""

    @property
    def stderr(self) -> str:
        """What it printed as errors."""


class RunCommand(Protocol):
    """Runs a command here with a time limit; a transport's ``run``."""

    def __call__(self, argv: Sequence[str], timeout_s: float, *, cwd: str | None = None) -> Ended: ...


class Wanted(NamedTuple):
    """A credential that is looked for."""

    #: Its name.
    key: str
    #: Whose it is: the profile, those that it extends, the nearest first, and the backend.
    owners: tuple[str, ...]
    #: What the profile says of it: nothing, an ``op://`` reference, or the words of a command.
    declared: str | Sequence[str] | None = None
    #: The profile's command for all its credentials.
    command: Sequence[str] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that may hold it, the first one first."""
        return tuple(dict.fromkeys(variable(owner, self.key) for owner in self.owners))


def variable(owner: str, key: str) -> str:
    """Give the name of the variable for a profile's credential: ``CLUSTERJOBS_<PROFILE>_<KEY>``."""
    return f"CLUSTERJOBS_{re.sub(r'[^A-Z0-9]', '_', owner.upper())}_{key}"


class Found(NamedTuple):
    """A source has the credential, or says that it will."""

    #: Where it is, for people.
    origin: str
    #: Gives the text; may take `TIMEOUT_S` seconds. Raises `CredentialError`, or `ClusterJobsError` of a transport.
    fetch: Callable[[], str]


class Source(Protocol):
    """A place where credentials may be."""

    def look(self, wanted: Wanted) -> Found | str:
        """Give what it has, or why it has nothing. Only the keyring is opened for that; nobody is asked for a password.

        Raises:
            ConfigError: The place is there and must not be used as it is.
        """


class Environment:
    """Variables of this process. Secrets of GitHub Actions arrive so."""

    def look(self, wanted: Wanted) -> Found | str:
        for name in wanted.variables:
            if text := os.environ.get(name):
                return Found(f"variable {name}", _giving(text))
        return f"variable {' or '.join(wanted.variables)}: not set"


class DotEnv:
    """A file named ``.env`` with the same variables, which must be ours alone."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, dotenv.FILE_NAME)

    def look(self, wanted: Wanted) -> Found | str:
        values = dotenv.read(self._path)
        if values is None:
            return f"{self._path}: there is no such file"
        for name in wanted.variables:
            if text := values.get(name):
                return Found(f"{name} in {self._path}", _giving(text))
        return f"{self._path}: has no {wanted.variables[0]}"


class Keyring:
    """The system's keyring, asked by its own command: an unlocking that nobody answers ends at the time limit."""

    def __init__(self, run: RunCommand) -> None:
        self._run = run

    def look(self, wanted: Wanted) -> Found | str:
        if importlib.util.find_spec("keyring") is None:
            return "keyring: pip install pytest-clusterjobs[keyring]"
        for owner in wanted.owners:
            name = f"{owner}/{wanted.key}"
            # From the root: `python -m` would also look into the working directory for the module.
            argv = [sys.executable, "-m", "keyring", "get", SERVICE, name]
            try:
                ended = self._run(argv, TIMEOUT_S, cwd="/")
            except ClusterJobsError as error:
                return f"keyring: {error.args[0]}"
            if ended.returncode == 0 and (text := _printed(ended)):
                return Found(f"keyring, service {SERVICE}, user {name}", _giving(text))
            if said := _last_line(ended.stderr):
                return f"keyring: {said}"
        return f"keyring: service {SERVICE} has no user {wanted.owners[0]}/{wanted.key}"


class OnePassword:
    """1Password, by ``op read`` (1Password CLI 2)."""

    def __init__(self, run: RunCommand) -> None:
        self._run = run

    def look(self, wanted: Wanted) -> Found | str:
        reference = wanted.declared
        if not reference or not isinstance(reference, str):
            return "1Password: the profile has no op:// reference for it"
        if shutil.which("op") is None:
            return f"1Password: op not found on PATH, and the profile has {reference}"
        return Found(f"1Password, {reference}", lambda: self.read(reference))

    def read(self, reference: str) -> str:
        """Give what a reference refers to.

        Raises:
            CredentialError: ``op`` does not give it.
            ClusterJobsError: There is no ``op``, or it does not end in time.
        """
        return _output(self._run(["op", "read", "--no-newline", reference], TIMEOUT_S), f"op read {reference}")


class Command:
    """Any command that prints the credential: one for it alone, or the profile's for all."""

    def __init__(self, run: RunCommand) -> None:
        self._run = run

    def look(self, wanted: Wanted) -> Found | str:
        own = wanted.declared
        argv = wanted.command if own is None or isinstance(own, str) else own
        if not argv:
            return "command: the profile has no credential_command"
        values = {"key": wanted.key, "profile": wanted.owners[0]}
        argv = [re.sub(r"\{(key|profile)\}", lambda match: values[match[1]], word) for word in argv]
        if shutil.which(argv[0]) is None:
            return f"command: {argv[0]} not found"
        return Found(f"command {argv[0]}", lambda: _output(self._run(argv, TIMEOUT_S), argv[0]))


def _giving(text: str) -> Callable[[], str]:
    return lambda: text


def _output(ended: Ended, what: str) -> str:
    if ended.returncode == 0 and (text := _printed(ended)):
        return text
    how = f"ended with {ended.returncode}" if ended.returncode else "printed nothing"
    raise CredentialError(f"{what}: {how}: {_last_line(ended.stderr)}".removesuffix(": "))


def _printed(ended: Ended) -> str:
    return ended.stdout.removesuffix("\n").removesuffix("\r")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def usual_sources(folder: str, run: RunCommand) -> tuple[Source, ...]:
    """Give the sources in their order.

    Args:
        folder: Where a ``.env`` file counts.
        run: Runs commands here.
    """
    return Environment(), DotEnv(folder), Keyring(run), OnePassword(run), Command(run)


class Credentials:
    """The credentials of one profile or backend. Any thread may use it; each is fetched once.

    Args:
        owners: The profile, those that it extends, the nearest first, and the backend.
        declared: What the profile says of each; empty when it names none, and then any name may be asked for.
        command: The profile's command for all of them.
        sources: Where they may be, in order.
        resolve: Gives what an ``op://`` reference in a variable or a ``.env`` file refers to.
    """

    def __init__(
        self,
        owners: Sequence[str],
        declared: Mapping[str, Any],
        command: Sequence[str],
        sources: Sequence[Source],
        resolve: Callable[[str], str],
    ) -> None:
        #: The profile or backend.
        self.profile = owners[0]
        #: The names that the profile declares.
        self.keys = tuple(declared)
        self._owners, self._declared, self._command = tuple(owners), declared, tuple(command)
        self._sources, self._resolve = sources, resolve
        self._secrets: dict[str, Secret] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Credentials of {self.profile}: {', '.join(self.keys) or 'any'}>"

    def __getitem__(self, key: str) -> Secret:
        """Give a credential. Blocks while its source is asked, at most `TIMEOUT_S` seconds each.

        Raises:
            CredentialError: No source has it, or the one that has it does not give it.
            ConfigError: The profile declares others only, or a source must not be used as it is.
        """
        found = self._find(key)
        if isinstance(found, Secret):
            return found
        raise self._missing(key, found)

    def get(self, key: str) -> Secret | None:
        """Give a credential, or None when no source has it.

        Raises:
            CredentialError: The source that has it does not give it.
            ConfigError: As for ``[key]``.
        """
        found = self._find(key)
        return found if isinstance(found, Secret) else None

    def origin(self, key: str) -> str:
        """Tell where a credential would come from.

        Raises:
            CredentialError: No source has it.
            ConfigError: As for ``[key]``.
        """
        answer = self._look(key)
        if isinstance(answer, Found):
            return answer.origin
        raise self._missing(key, answer)

    def survey(self) -> list[dict[str, str | None]]:
        """Tell of each declared credential its ``key``, and its ``source`` or the ``problem``; never its value."""
        found: list[dict[str, str | None]] = []
        for key in self.keys:
            try:
                found.append({"key": key, "source": self.origin(key), "problem": None})
            except (CredentialError, ConfigError) as error:
                found.append({"key": key, "source": None, "problem": str(error)})
        return found

    def _look(self, key: str) -> Found | list[str]:
        """Give the first source's answer, or why none of them has it."""
        self._check(key)
        wanted = Wanted(key, self._owners, self._declared.get(key), self._command)
        reasons = []
        for source in self._sources:
            answer = source.look(wanted)
            if isinstance(answer, Found):
                return answer
            reasons.append(answer)
        return reasons

    def _find(self, key: str) -> Secret | list[str]:
        with self._lock:
            if key not in self._secrets:
                answer = self._look(key)
                if not isinstance(answer, Found):
                    return answer
                self._secrets[key] = self._fetch(key, answer)
            return self._secrets[key]

    def _missing(self, key: str, reasons: Sequence[str]) -> CredentialError:
        lines = [f"no credential {key} for {self.profile!r}: set {variable(self.profile, key)}", *reasons]
        return CredentialError("\n  ".join(lines))

    def _check(self, key: str) -> None:
        if self.keys and key not in self.keys:
            hint = nearest(key, self.keys)
            raise ConfigError(f"{self.profile!r} has no credential {key!r}; known: {', '.join(self.keys)}{hint}")
        if not KEY.fullmatch(key):
            raise ConfigError(f"no credential can be named {key!r}: capital letters, digits and _ only, a letter first")

    def _fetch(self, key: str, found: Found) -> Secret:
        try:
            text = found.fetch()
            text = self._resolve(text) if REFERENCE.fullmatch(text) else text
        except ClusterJobsError as error:
            name = variable(self.profile, key)
            raise CredentialError(
                f"no credential {key} for {self.profile!r} from {found.origin}: {error.args[0]}; or set {name}"
            ) from None
        if len(text) < SHORTEST:
            import logging

            logging.getLogger("pytest_clusterjobs").warning(
                "clusterjobs: the credential %s of %s has fewer than %d characters: texts are not redacted of it",
                key, self.profile, SHORTEST,
            )  # fmt: skip
        return Secret(text, key, found.origin)
