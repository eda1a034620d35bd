"""The command that runs again what failed: this session's own, with the failed tests in place of its files."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pytest_clusterjobs.plugin import options, xdist
from pytest_clusterjobs.plugin.session import ClusterSession

#: A longer command names a file with the tests, or lets pytest remember them.
_LIMIT = 2000
#: Stands in an argument's place to see what pytest takes it for.
_PROBE = "clusterjobs-probe.py"


def command(session: ClusterSession, nodeids: Sequence[str], reports: Sequence[str]) -> tuple[str, str]:
    """Give the command for a shell in this session's directory, "" when nothing failed.

    Of many tests the command names a file beside the first report: the text for it comes with the command. Where there
    is no report, or pytest is older than 8.2, pytest's ``--lf`` knows them; where that is switched off too, all the
    session's tests run again.

    Args:
        session: The session's options.
        nodeids: The tests that failed.
        reports: Paths of the reports.
    """
    config = session.config
    failed = [_relative(config, nodeid) for nodeid in nodeids if nodeid]
    if not failed:
        return "", ""
    fixed, places = _split(config)
    head = [*_program(), *fixed, *_from_environment(session)]
    exact = shlex.join([*head, *failed])
    if len(exact) <= _LIMIT:
        return exact, ""
    if reports and pytest.version_tuple >= (8, 2):  # older ones read no arguments from files
        path = os.path.relpath(list_path(reports), config.invocation_params.dir)
        return shlex.join([*head, f"@{path}"]), "\n".join(failed) + "\n"
    remembers = config.pluginmanager.has_plugin("lfplugin")
    return shlex.join([*head, *(["--lf"] if remembers else []), *places]), ""


def list_path(reports: Sequence[str]) -> str:
    """Give the path of the file with the failed tests' ids, one in a line."""
    return os.path.splitext(reports[0])[0] + ".failed.txt"


def _relative(config: pytest.Config, nodeid: str) -> str:
    path, separator, inner = xdist.id_without_group(config, nodeid).partition("::")
    return os.path.relpath(config.rootpath / path, config.invocation_params.dir) + separator + inner


def _split(config: pytest.Config) -> tuple[list[str], list[str]]:
    """Tell the options of the command line, with their values, from its files and directories."""
    arguments = [os.fspath(each) for each in config.invocation_params.args]
    places = {index for index, each in enumerate(arguments) if not each.startswith("-") and _is_place(config, index)}
    return (
        [each for index, each in enumerate(arguments) if index not in places],
        [each for index, each in enumerate(arguments) if index in places],
    )


def _is_place(config: pytest.Config, index: int) -> bool:
    """Tell whether an argument is a file or directory, and not the value of the option before it. Pytest knows."""
    probed: list[Any] = list(config.invocation_params.args)
    probed[index] = _PROBE
    try:
        found, _ = config._parser.parse_known_and_unknown_args(probed)
    except pytest.UsageError:  # no value for the option before it
        return False
    return _PROBE in found.file_or_dir


def _from_environment(session: ClusterSession) -> Iterator[str]:
    """Give as options what this session was told by variables: whoever runs it again has not set these."""
    for name, (value, source, _) in options.given(session.config).items():
        if not source.isupper():
            continue
        (flag,) = (option.flag for option in options.OPTIONS if option.name == name)
        if flag is None:
            yield from ("-o", f"clusterjobs_{name}={value}")
        elif isinstance(getattr(session.values, name), bool):
            yield from [flag] if getattr(session.values, name) else []
        else:
            yield f"{flag}={value}"


def _program() -> list[str]:
    """Give how this pytest was called."""
    script = sys.argv[0]
    name = os.path.basename(script)
    if name in ("pytest", "py.test"):
        return [name if _is_on_path(name, script) else os.path.relpath(script)]
    python = next((name for name in ("python", "python3") if _is_on_path(name, sys.executable)), sys.executable)
    return [python, "-m", "pytest"]


def _is_on_path(name: str, path: str) -> bool:
    found = shutil.which(name)
    return found is not None and os.path.abspath(found) == os.path.abspath(path)
