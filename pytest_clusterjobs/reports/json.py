"""The report as JSON."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress

from pytest_clusterjobs.reports.model import RunReport


def render(report: RunReport) -> str:
    """Give the report as JSON text, ending with a line break. A value that JSON has no type for becomes its text."""
    return json.dumps(report.to_dict(), indent=2, default=str) + "\n"


def write(report: RunReport, path: str) -> None:
    """Write the report to a file, whole or not at all; makes the directory.

    Raises:
        OSError: It cannot be written; the old file, if there was one, is untouched.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(render(report))
        os.chmod(temporary, 0o644)  # mkstemp makes it ours alone; a report is there to be read
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
