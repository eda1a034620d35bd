"""The hooks that this plugin calls.

Implement them in a conftest.py at the root of the tests or in a plugin. In a plugin that must also work where
pytest-clusterjobs is not installed, write ``@pytest.hookimpl(optionalhook=True)`` above the function.
PYTEST_DONT_REWRITE: there is no assert here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_clusterjobs.backends.registry import BackendFactory


@pytest.hookspec()
def pytest_clusterjobs_register_backends(register: Callable[[str, BackendFactory], None]) -> None:
    """Make backends of your own known under a name, for ``--cluster=<name>`` and ``@pytest.mark.cluster("<name>")``.

    Called once in a session, when the first backend's name is needed, which may be never; all implementations are
    called. Under pytest-xdist it is called in the controller and in each worker, so register the same names in all of
    them. A distribution may announce an entry point of the group ``pytest_clusterjobs.backends`` instead.

    Example::

        def pytest_clusterjobs_register_backends(register):
            register("mycluster", MyBackend)

    Use in conftest plugins: those that are loaded when the session starts, next to ``testpaths`` or the arguments.

    Args:
        register: Takes a name and a factory; a subclass of ``Backend`` is one. Raises ``ConfigError`` when the name is
            taken by another factory.
    """
