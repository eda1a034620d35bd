"""Names: the nearest valid one for a typo, and safe ones for jobs and directories."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Give `` — did you mean 'x'?`` for the known name nearest to ``name``, or "" when none is near."""
    spelled = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.6)
    return f" — did you mean {spelled[close[0]]!r}?" if close else ""


def slug(text: str, limit: int = 40) -> str:
    """Reduce a text to ``[A-Za-z0-9_.-]``, at most ``limit`` characters, for job names and directories; never empty."""
    clean = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")
    return clean[:limit].rstrip("-.") or "job"
