"""Quantities as people write them, parsed once, here.

Memory suffixes mean what they mean to Slurm, PBS, Grid Engine and LSF: powers of 1024, with or without a ``B`` or an
``i`` (sbatch(1) ``--mem``, pbs_resources(7), sge_types(1)). ``1GB``, ``1G``, ``1Gi`` and ``1GiB`` are the same 2**30
bytes.
"""

from __future__ import annotations

import math
import re

from pytest_clusterjobs.core.errors import SpecError

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b|i)?", re.IGNORECASE)
_EXPONENT = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2}):(\d{1,2})")
_SPANS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", re.IGNORECASE)

MEMORY_FORMS = '"1GB", "512MB", "1.5GiB", "2G", "1Gi", or a number of bytes'
DURATION_FORMS = '"HH:MM:SS", "D-HH:MM:SS", "30m", "1h30m", or a number of seconds'


def parse_memory(value: object, what: str = "memory") -> int:
    """Give a memory size in bytes, rounded up.

    Raises:
        SpecError: ``value`` is no size, or not positive. The message names ``what`` and the allowed forms.
    """
    size: float
    if isinstance(value, str) and (match := _MEMORY.fullmatch(value.strip())):
        size = float(match[1]) * 1024.0 ** _EXPONENT[match[2].lower()]
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        size = value
    else:
        raise SpecError(f"{what}={value!r} is no memory size; write {MEMORY_FORMS}")
    if size < 1:
        raise SpecError(f"{what}={value!r} must be at least one byte; write {MEMORY_FORMS}")
    return math.ceil(size)


def parse_duration(value: object, what: str = "time") -> float:
    """Give a duration in seconds.

    A text of digits alone is seconds too, as it arrives from ini files and environment variables.

    Raises:
        SpecError: ``value`` is no duration, or not positive. The message names ``what`` and the allowed forms.
    """
    seconds = _seconds(value)
    if seconds is None:
        raise SpecError(f"{what}={value!r} is no duration; write {DURATION_FORMS}")
    if seconds <= 0:
        raise SpecError(f"{what}={value!r} must be more than zero; write {DURATION_FORMS}")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value if math.isfinite(value) else None
    if not isinstance(value, str) or not (text := value.strip()):
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if match := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return None if minutes > 59 or seconds > 59 else ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if match := _SPANS.fullmatch(text):
        days_, hours_, minutes_, seconds_ = (float(part or 0) for part in match.groups())
        return ((days_ * 24 + hours_) * 60 + minutes_) * 60 + seconds_
    return None


def format_memory(size_bytes: int | None) -> str:
    """Write a size for people: ``1.5 GiB``; ``-`` for None."""
    if size_bytes is None:
        return "-"
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if size >= 10 or size == int(size) else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size_bytes} B"  # pragma: no cover - the loop always returns


def format_duration(seconds: float | None) -> str:
    """Write a duration for people: ``0.31 s``, ``4 m 05 s``, ``2 h 10 m``; ``-`` for None."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} m"


def clock_text(seconds: float) -> str:
    """Write a duration as schedulers read it, ``[D-]HH:MM:SS``, rounded up to a second."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}" if days else f"{hours:02d}:{minutes:02d}:{rest:02d}"
