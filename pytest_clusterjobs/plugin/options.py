"""The plugin's options: each a command-line option, an ini value and an environment variable.

The command line wins over the environment, the environment over the ini file. Light, as it is loaded in every pytest
run: what the values mean is in `values`. PYTEST_DONT_REWRITE: there is no assert here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pytest


class Option(NamedTuple):
    """One row of the table below."""

    #: The name after ``clusterjobs_`` and ``CLUSTERJOBS_``.
    name: str
    #: The option; None where there is only the ini value and the variable.
    flag: str | None
    #: What stands for its value in ``--help``; "" for a switch.
    metavar: str
    #: For ``--help``: imperative, lower case, no full stop.
    help: str


OPTIONS: tuple[Option, ...] = (
    Option(
        "cluster",
        "--cluster",
        "NAMES",
        "run the cluster tests on these backends: names, or auto (all that answer), all (all known), none; "
        "comma-separated, repeatable",
    ),
    Option("default", None, "NAME", "backend for `-m real_world` without --cluster"),
    Option(
        "missing",
        "--cluster-missing",
        "error|skip",
        "what a named backend that does not answer makes of its tests: error (the default) or skip",
    ),
    Option("run_expensive", "--run-expensive", "", "run tests marked expensive too"),
    Option(
        "timeout",
        "--cluster-timeout",
        "DURATION",
        "limit on the run time of jobs that set none, e.g. 90, 30m, 01:30:00",
    ),
    Option(
        "queue_timeout",
        "--cluster-queue-timeout",
        "DURATION",
        "limit on the wait in the queue of jobs that set none",
    ),
    Option("max_jobs", "--cluster-max-jobs", "N", "at most so many unfinished jobs at once, all workers together"),
    Option(
        "keep",
        "--cluster-keep",
        "failed|always|never",
        "whose directories are kept at the end: failed jobs' (the default), always all, or never any",
    ),
    Option(
        "workdir",
        "--cluster-workdir",
        "PATH",
        "directory for the jobs' files, which the nodes must see under the same name (default: .clusterjobs in the "
        "root directory)",
    ),
    Option("check", "--cluster-check", "", "print which backends answer, and why others do not, and run no test"),
    Option(
        "matrix",
        "--cluster-matrix",
        "PATH",
        "with --collect-only: write each test and the place that it would run on as JSON, for the steps of a CI system",
    ),
    Option(
        "report",
        "--cluster-report",
        "PATH",
        "write a report of the run's tests and jobs to this file: .json, .md or .html; repeatable",
    ),
    Option(
        "history",
        "--cluster-history",
        "RUNS|off",
        "remember so many runs of this project for `clusterjobs history` (default: 200), or none",
    ),
    Option(
        "baseline",
        "--cluster-baseline",
        "FILE",
        "compare the figures of tests marked cluster_performance with the references in this JSON file",
    ),
    Option(
        "baseline_update",
        "--cluster-baseline-update",
        "",
        "write what the passed tests measure to the file of --cluster-baseline, and compare nothing",
    ),
    Option(
        "validate",
        "--cluster-validate",
        "",
        "compare what each job asked for with what it was given and found, and fail its test where they differ",
    ),
    Option(
        "up",
        "--cluster-up",
        "",
        "boot a throw-away cluster for the named backends before the run, and take it down",
    ),
)

#: Names of those that take several values: the option again and again, elsewhere with commas.
REPEATABLE = frozenset({"cluster", "report"})


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and ini values."""
    group = parser.getgroup("cluster jobs", "cluster jobs")
    for name, option, metavar, text in OPTIONS:
        ini = f"clusterjobs_{name}"
        parser.addini(ini, text, default=None)
        if option is None:
            continue
        text += f" (ini: {ini}, environment: {ini.upper()})"
        if metavar:
            action = "append" if name in REPEATABLE else "store"
            group.addoption(option, dest=ini, action=action, metavar=metavar, default=None, help=text)
        else:
            group.addoption(option, dest=ini, action="store_true", default=None, help=text)


def given(config: pytest.Config) -> dict[str, tuple[Any, str, Any]]:
    """Give what was written: name -> (value, where it was written, what a relative path is relative to)."""
    found: dict[str, tuple[Any, str, Any]] = {}
    for name, option, _, _ in OPTIONS:
        ini = f"clusterjobs_{name}"
        written = getattr(config.option, ini, None)
        if written is not None:
            found[name] = (written, option or "", config.invocation_params.dir)
        elif text := os.environ.get(ini.upper()):
            found[name] = (text, ini.upper(), config.invocation_params.dir)
        elif text := config.getini(ini):
            found[name] = (text, ini, config.rootpath)
    return found
