"""The value of the fixture ``cluster_credentials``: the credentials of the backend or profile that the test runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_clusterjobs.core.errors import CredentialError

if TYPE_CHECKING:
    from pytest_clusterjobs.config.credentials import Credentials
    from pytest_clusterjobs.core.redaction import Secret

__all__ = ["ClusterCredentials"]


class ClusterCredentials:
    """The running test's credentials by name, each a `Secret`. Made by the fixture ``cluster_credentials``.

    It stays here: a decorated test, whose body runs on the node, cannot take it as an argument.
    """

    def __init__(self, credentials: Credentials, *, is_required: bool) -> None:
        self._credentials, self._is_required = credentials, is_required

    @property
    def keys(self) -> tuple[str, ...]:
        """The names that the profile declares; () when it names none, and then any may be asked for."""
        return self._credentials.keys

    def __getitem__(self, key: str) -> Secret:
        """Give a credential; without it the test is skipped, unless its backend was named on the command line.

        Raises:
            CredentialError: The backend was named, and no source has the credential, or the one that has it does not
                give it.
            ConfigError: The profile declares others only, or a ``.env`` file may be read by others.
        """
        __tracebackhide__ = True
        try:
            return self._credentials[key]
        except CredentialError as error:
            if self._is_required:
                raise
            raise _skip(error) from None

    def get(self, key: str) -> Secret | None:
        """Give a credential, or None when no source has it. One whose source does not give it is as for ``[key]``.

        Raises:
            CredentialError: As for ``[key]``.
            ConfigError: As for ``[key]``.
        """
        __tracebackhide__ = True
        try:
            return self._credentials.get(key)
        except CredentialError as error:
            if self._is_required:
                raise
            raise _skip(error) from None

    def __repr__(self) -> str:
        return f"<ClusterCredentials of {self._credentials.profile}: {', '.join(self.keys) or 'any'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "credentials do not travel in a job's arguments; have the test call a decorated function with "
            'options(env={"TOKEN": cluster_credentials["TOKEN"]})'
        )


def _skip(error: CredentialError) -> BaseException:
    skipped = pytest.skip.Exception(str(error).partition("\n")[0])
    skipped._use_item_location = True  # pytest then tells the test's place, not this file's
    return skipped
