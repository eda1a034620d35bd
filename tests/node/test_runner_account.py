"""The runner where the node does not know the user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.local_bench import RUNNER, Bench
else:
    from local_bench import RUNNER, Bench

UNKNOWN_USER = """
import pwd, runpy, sys

def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = getpwuid
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_user_without_an_entry_in_the_password_database_runs_jobs(tmp_path: Path) -> None:
    """In a container that runs as a bare number every job ended with a KeyError before its function was called."""
    folder = Bench(tmp_path).directory(["true"])
    ended = subprocess.run([sys.executable, "-c", UNKNOWN_USER, RUNNER, folder], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (folder / "result.cj").exists()
