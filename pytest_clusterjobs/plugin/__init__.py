"""The face towards pytest.

This module is loaded in every pytest run where the package is installed, so it imports next to nothing: the rest comes
when something is asked of it; `start` says when that is. PYTEST_DONT_REWRITE: there is no assert here.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

#: Why submissions are refused while conftests and test modules are imported.
WHILE_COLLECTING = (
    "pytest is collecting: modules are imported, no job can be submitted; call it inside a test or fixture"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini values."""
    from pytest_clusterjobs.plugin.options import add_options

    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    from pytest_clusterjobs.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Generator[None, None, None]:
    """Refuse submissions while conftests are imported: nobody would wait for them or clean up after them."""
    from pytest_clusterjobs.engine import current

    before = current.refuse(WHILE_COLLECTING)
    try:
        return (yield)
    finally:
        current.refuse(before)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Answer ``--cluster-check`` instead of running tests."""
    from pytest_clusterjobs.plugin.options import given

    if _only_informs(config) or "check" not in given(config):
        return None
    from pytest_clusterjobs.plugin.check import check

    return check(config)


@pytest.hookimpl(trylast=True)  # the names of backends are checked here, and other plugins may still bring some
def pytest_configure(config: pytest.Config) -> None:
    """Register markers and fixtures, and what looks at the collected tests."""
    from pytest_clusterjobs.plugin import fixtures, markers

    for line in markers.LINES:
        config.addinivalue_line("markers", line)
    config.pluginmanager.register(fixtures, "clusterjobs-fixtures")
    if not _only_informs(config):  # --help must work with wrong values in the ini file
        from pytest_clusterjobs.plugin.start import Start

        config.pluginmanager.register(Start(config), "clusterjobs-start")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have every cluster test planned.

    After the conftests, which may mark tests in this hook, and before ``-m`` deselects, which looks at marks that are
    added here: what is registered later is called earlier, and this module comes after pytest's own and before theirs.
    """
    start = config.pluginmanager.get_plugin("clusterjobs-start")
    if start is not None:
        start.plan(items)


def _only_informs(config: pytest.Config) -> bool:
    options = config.option
    return any(getattr(options, name, False) for name in ("help", "version", "markers", "showfixtures"))
