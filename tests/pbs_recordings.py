"""What real OpenPBS servers printed: the newest commit of April 2026, and release 23.06.06."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent / "backends" / "data" / "pbs"
FLAVOURS = ("newest", "23.06.06")
#: Exit code of `timeout`, with which commands were ended that would have waited for ever.
ENDED_BY_US = 124


class Recording(NamedTuple):
    """One command and its answer. Bytes that are no UTF-8 are surrogates."""

    case: str
    command: str
    code: int
    stdout: str
    stderr: str

    @property
    def program(self) -> str:
        """The command's name, without what stood before it."""
        words = [word for word in self.command.split() if "=" not in word and word not in ("env", "timeout")]
        return next((word for word in words if not word.isdigit()), "")


@functools.cache
def recordings(flavour: str) -> dict[str, Recording]:
    """Give all recordings of one of the two, by case."""
    rows = json.loads((DATA / f"{flavour}.json").read_text())
    return {row["case"]: Recording(**row) for row in rows}


def recorded(case: str, flavour: str = "newest") -> Recording:
    """Give one recording; a beginning of its name that no other has is enough."""
    found = [each for name, each in recordings(flavour).items() if name.startswith(case)]
    assert len(found) == 1, f"{case}: {[each.case for each in found]}"
    return found[0]


def by_program(program: str) -> list[Recording]:
    """Give all recordings of one command that came to an end."""
    return [
        each
        for flavour in FLAVOURS
        for each in recordings(flavour).values()
        if each.program == program and each.code != ENDED_BY_US
    ]
