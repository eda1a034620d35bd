"""A suite without cluster tests pays next to nothing: what is heavy is not imported. Names, not milliseconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "asyncio",
    "click",
    "cloudpickle",
    "concurrent.futures.process",
    "filelock",
    "importlib.metadata",
    "jinja2",
    "kubernetes",
    "multiprocessing",
    "pydantic",
    "rich",
    "yaml",
)

#: What is ours and only needed once there is a job.
WORKING = tuple(
    f"pytest_clusterjobs.{part}"
    for part in ("backends", "cli", "clusters", "decorator", "engine.run", "node", "reports", "testing", "transports")
)

_PROBE = """
import sys
before = set(sys.modules)
{statement}
print(sorted(name for name in sys.modules if name not in before))
"""


def imported_by(statement: str) -> list[str]:
    """Import in a fresh interpreter that loads no site's or user's extras, and give the names of the new modules."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(statement=statement)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))},
    )
    names: list[str] = eval(done.stdout)  # noqa: S307 - printed by the line above
    return names


def test_the_package_alone_imports_nothing_but_itself() -> None:
    assert [name for name in imported_by("import pytest_clusterjobs") if name.startswith("pytest_clusterjobs.")] == []


@pytest.mark.parametrize("heavy", HEAVY)
def test_the_package_imports_nothing_heavy(heavy: str) -> None:
    assert heavy not in imported_by("import pytest_clusterjobs")


def test_the_plugin_imports_nothing_heavy_that_pytest_has_not() -> None:
    names = imported_by(
        "import pytest, _pytest.config, _pytest.fixtures\nbefore |= set(sys.modules)\nimport pytest_clusterjobs.plugin"
    )
    assert sorted(set(names).intersection(HEAVY)) == []
    ours = [name for name in names if name.startswith("pytest_clusterjobs")]
    assert [name for name in ours if name.startswith(WORKING)] == []


_LIST_MODULES = """
import sys
def pytest_unconfigure(config):
    loaded = sorted(sys.modules)
    with open({path!r}, "w") as file:
        file.write(" ".join(loaded))
"""


@pytest.mark.parametrize("options", [[], ["--help"], ["--collect-only"], ["--markers"], ["-m", "not real_world"]])
def test_a_suite_without_cluster_tests_imports_nothing_heavy(tmp_path: Path, options: list[str]) -> None:
    """The whole of a run, with the options that are parsed and the hooks that are called in every run."""
    loaded = {}
    (tmp_path / "test_plain.py").write_text("def test_plain():\n    pass\n")
    (tmp_path / "clusterjobs.yaml").write_text("wrong: it is not even read")
    for name, plugin in {"with": [], "without": ["-p", "no:clusterjobs"]}.items():
        path = tmp_path / f"{name}.txt"
        (tmp_path / "conftest.py").write_text(_LIST_MODULES.format(path=str(path)))
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *options]
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "CLUSTERJOBS_"))
        }
        done = subprocess.run(
            argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        loaded[name] = set(path.read_text().split())
    more = loaded["with"] - loaded["without"]
    assert sorted(more.intersection(HEAVY)) == []
    assert not [name for name in more if name.startswith(WORKING)]
    assert not (tmp_path / ".clusterjobs").exists()


def test_what_runs_a_job_imports_no_functools_and_leaves_the_real_one_to_others() -> None:
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1] / 'pytest_clusterjobs' / 'node')!r})\n"
        "sys.modules.pop('functools', None)\n"
        "import packing\n"
        "assert 'functools' not in sys.modules\n"
        "import functools\n"
        "assert functools.wraps\n"
        "packing.loads(packing.pickle.dumps(functools.partial(int, base=2)))\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], timeout=60, check=True)
