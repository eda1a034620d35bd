"""Reports as files: the format goes by the suffix."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress

from pytest_clusterjobs.reports.model import RunReport


def render(report: RunReport, suffix: str) -> Iterable[str]:
    """Give the report as the pieces of a file with this suffix: ``.json``, ``.md`` or ``.html``.

    In pieces, for a report of thousands of jobs takes as much memory as all that the run knows of them.
    """
    if suffix == ".html":
        from pytest_clusterjobs.reports import html

        return html.render(report)
    if suffix == ".md":
        from pytest_clusterjobs.reports import markdown

        return (markdown.render(report),)
    from pytest_clusterjobs.reports import json

    return json.render(report)


def write(report: RunReport, path: str) -> None:
    """Write the report to a file, in the format of its suffix.

    Raises:
        OSError: It cannot be written; the old file, if there was one, is untouched.
    """
    write_pieces(render(report, os.path.splitext(path)[1]), path)


def write_pieces(pieces: Iterable[str], path: str) -> None:
    """Write a file that others may read, whole or not at all; makes the directory.

    Raises:
        OSError: It cannot be written; the old file, if there was one, is untouched.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.writelines(pieces)
        os.chmod(temporary, 0o644)  # mkstemp makes it ours alone; a report is there to be read
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
