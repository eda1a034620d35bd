"""An LSF for a while: what is behind ``fake_lsf``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.testing.fakes.lsf.cluster import SETTINGS, VERSIONS, FakeLsf
from pytest_clusterjobs.testing.fakes.place import FakePlace, open_place

_COMMANDS = ("bsub", "bjobs", "bkill", "bhist", "bqueues", "bhosts", "lshosts", "lsid", "bparams")


class LsfPlace(FakePlace):
    """A fake LSF that is there for a while."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process finds the commands, and no other site's configuration."""
        return {**super().environment, "LSF_ENVDIR": os.path.dirname(self.bin_directory)}


@contextmanager
def open_lsf(
    directory: str | os.PathLike[str], *, version: str = "10.1", slots: int = 4, **settings: Any
) -> Iterator[LsfPlace]:
    """Have an LSF of one host whose commands are executables and whose jobs are processes.

    Args:
        directory: Where everything of it is kept; made when it is not there.
        version: One of `VERSIONS`.
        slots: Job slots of the host.
        settings: Of `SETTINGS`; `FakePlace.set` changes them while it runs.

    Raises:
        ConfigError: There is no such version or setting.
    """
    for what, name, known in [("version", version, VERSIONS), *(("setting", name, SETTINGS) for name in settings)]:
        if name not in known:
            raise ConfigError(f"no {what} {name!r} of the fake LSF; known: {', '.join(known)}{nearest(name, known)}")
    chosen = {**SETTINGS, **settings, "version": version, "slots": slots}
    with open_place(FakeLsf, "pytest_clusterjobs.testing.fakes.lsf.main", _COMMANDS, directory, **chosen) as place:
        yield LsfPlace(place.cluster, place.bin_directory)
