"""Schedulers that are not there: executables that speak like the real ones and really run the jobs.

``fake_pbs`` makes one for a while::

    with fake_pbs(tmp_path, slots=4) as cluster:
        subprocess.run(["qsub", "script.sh"], env={**os.environ, **cluster.environment})
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_clusterjobs.testing.fakes.place import FakePlace

__all__ = ["fake_lsf", "fake_pbs"]


def fake_pbs(
    directory: str | os.PathLike[str],
    *,
    version: str = "23.06.06",
    slots: int = 4,
    history: bool = True,
    **settings: Any,
) -> AbstractContextManager[FakePlace]:
    """Give OpenPBS with one node, for as long as the ``with`` block lasts; then all its jobs are ended.

    Its queues are ``workq`` (the default), ``short`` (10 minutes at most), ``held`` (not started) and ``closed`` (not
    enabled).

    Args:
        directory: Where everything is kept.
        version: ``23.06.06`` or ``newest``: they print JSON differently, and each has its own faults.
        slots: Cores of the node.
        history: True: finished jobs can be asked about with ``qstat -x``.
        settings: First settings: those of ``SETTINGS`` in `pytest_clusterjobs.testing.fakes.pbs.site`.

    Raises:
        ConfigError: There is no such version or setting.
    """
    import time

    from pytest_clusterjobs.core.errors import ConfigError
    from pytest_clusterjobs.core.naming import nearest
    from pytest_clusterjobs.testing.fakes.pbs.site import COMMANDS, SETTINGS, VERSIONS, FakePbs
    from pytest_clusterjobs.testing.fakes.place import open_place

    for what, name, known in [("version", version, VERSIONS), *(("setting", name, SETTINGS) for name in settings)]:
        if name not in known:
            raise ConfigError(f"no {what} {name!r} of the fake PBS; known: {', '.join(known)}{nearest(name, known)}")
    chosen = {**SETTINGS, **settings, "version": version, "slots": slots, "history": history}
    return open_place(
        FakePbs,
        "pytest_clusterjobs.testing.fakes.pbs.commands",
        COMMANDS,
        directory,
        next_number=0,
        started_at=time.time(),
        **chosen,
    )


def fake_lsf(
    directory: str | os.PathLike[str], *, version: str = "10.1", slots: int = 4, **settings: Any
) -> AbstractContextManager[FakePlace]:
    """Give LSF with one host, for as long as the ``with`` block lasts; then all its jobs are ended.

    Its queues are ``normal`` (the default), ``short`` (10 minutes at most), ``held`` (not started) and ``closed``.

    Args:
        directory: Where everything is kept.
        version: ``10.1`` (IBM's), ``volclava-2.2`` (``bjobs -json`` without exit codes and reasons) or ``openlava-3.0``
            (no ``-json``).
        slots: Job slots of the host.
        settings: First settings: those of ``SETTINGS`` in `pytest_clusterjobs.testing.fakes.lsf.cluster`.

    Raises:
        ConfigError: There is no such version or setting.
    """
    from pytest_clusterjobs.testing.fakes.lsf.place import open_lsf

    return open_lsf(directory, version=version, slots=slots, **settings)
