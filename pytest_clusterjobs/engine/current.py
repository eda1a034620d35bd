"""Which run the calls of decorated functions go to. Light: whoever decides it need not load the engine for that."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.run import Run

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


_provider: Callable[[], Run] | None = None
_require: Callable[[str], str] | None = None
_refusal: str | None = None


def current() -> Run:
    """Give the active run; where nobody provides one, one is made now and closed when the interpreter ends.

    Raises:
        UsageError: No job may be submitted now.
    """
    refuse_now()
    if _provider is None:
        import atexit

        from pytest_clusterjobs.engine.configured import open_run

        run = open_run()
        atexit.register(run.close)
        provide(lambda: run)
        return run
    return _provider()


def provide(provider: Callable[[], Run] | None) -> Callable[[], Run] | None:
    """Say what gives the active run, when it is needed; gives what gave it before."""
    global _provider
    previous, _provider = _provider, provider
    return previous


def require(name: str) -> str:
    """Give the name of a backend or a profile back, as the active run's configuration knows it.

    Raises:
        UnknownBackendError: There is neither.
    """
    from pytest_clusterjobs.backends import registry
    from pytest_clusterjobs.core.errors import UnknownBackendError

    try:
        return registry.require(name)
    except UnknownBackendError:
        if _require is not None:
            return _require(name)
        from pytest_clusterjobs.engine.configured import standalone

        return standalone().require(name)


def provide_names(checker: Callable[[str], str] | None) -> Callable[[str], str] | None:
    """Say what knows the names of profiles; gives what knew them before."""
    global _require
    previous, _require = _require, checker
    return previous


def refuse(reason: str | None) -> str | None:
    """Refuse every submission with this reason until told None; gives the reason before."""
    global _refusal
    previous, _refusal = _refusal, reason
    return previous


def refuse_now() -> None:
    """Raise `UsageError` where no job may be submitted."""
    from pytest_clusterjobs.core.errors import UsageError

    if _refusal is not None:
        raise UsageError(_refusal)
    if "CLUSTERJOBS_JOB_ID" in os.environ and os.environ.get("CLUSTERJOBS_NESTED") != "submit":
        raise UsageError(
            "this process is itself a cluster job and would submit another one; call the function's .local(...) to run "
            "it here, or set CLUSTERJOBS_NESTED=submit in the job's env to allow it"
        )
