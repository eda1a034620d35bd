"""Sizes and durations: every form that people write, and what is said to the others."""

from __future__ import annotations

import math

import pytest

from pytest_clusterjobs.core.errors import SpecError
from pytest_clusterjobs.core.units import (
    DURATION_FORMS,
    MEMORY_FORMS,
    clock_text,
    format_duration,
    format_memory,
    parse_duration,
    parse_memory,
)


class TestParseMemory:
    @pytest.mark.parametrize(
        ("text", "size_bytes"),
        [
            ("1GB", 2**30),
            ("1G", 2**30),
            ("1Gi", 2**30),
            ("1GiB", 2**30),
            ("1gb", 2**30),
            (" 1 GB ", 2**30),
            ("512MB", 512 * 2**20),
            ("1.5GiB", 3 * 2**29),
            ("2G", 2**31),
            ("64k", 2**16),
            ("3T", 3 * 2**40),
            ("1P", 2**50),
            ("4096", 4096),
            ("4096B", 4096),
            (4096, 4096),
            (4096.0, 4096),
            (True + 1, 2),
        ],
    )
    def test_every_form_means_powers_of_1024(self, text: object, size_bytes: int) -> None:
        assert parse_memory(text) == size_bytes

    def test_a_part_of_a_byte_is_rounded_up(self) -> None:
        assert parse_memory("0.3k") == math.ceil(0.3 * 1024)
        assert parse_memory(10.2) == 11

    @pytest.mark.parametrize(
        "value",
        [
            *["", "GB", "1 GB RAM", "1XB", "-1GB", "1,5GB", "1e9", "0x10", "ten", "1GBB"],
            *[None, True, [], b"1GB", math.nan, math.inf],
        ],
    )
    def test_anything_else_is_refused_with_the_allowed_forms(self, value: object) -> None:
        with pytest.raises(SpecError) as caught:
            parse_memory(value, "memory of a node")
        assert str(caught.value) == f"memory of a node={value!r} is no memory size; write {MEMORY_FORMS}"

    @pytest.mark.parametrize("value", [0, "0", "0GB", -5, 0.5, "0.1"])
    def test_less_than_a_byte_is_refused(self, value: object) -> None:
        with pytest.raises(SpecError) as caught:
            parse_memory(value)
        assert str(caught.value) == f"memory={value!r} must be at least one byte; write {MEMORY_FORMS}"


class TestParseDuration:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("00:05:00", 300),
            ("0:05:00", 300),
            ("24:00:00", 86400),
            ("100:00:00", 360000),
            ("1-00:00:00", 86400),
            ("2-01:02:03", 2 * 86400 + 3723),
            ("30m", 1800),
            ("1h30m", 5400),
            ("1H30M", 5400),
            ("90s", 90),
            ("1.5s", 1.5),
            ("2d", 172800),
            ("1d12h", 129600),
            ("1d2h3m4s", 93784),
            ("90", 90),
            ("1.5", 1.5),
            (" 90 ", 90),
            (90, 90),
            (0.25, 0.25),
        ],
    )
    def test_every_form_gives_seconds(self, text: object, seconds: float) -> None:
        assert parse_duration(text) == seconds

    @pytest.mark.parametrize(
        "value",
        [
            *["", " ", "5 minutes", "00:60:00", "00:00:60", "05:00", "1-05:00", "-1", "-00:05:00", "1h30", "30m1h"],
            *["h", "1e3", "nan", None, True, [], b"30m", math.nan, math.inf, -math.inf],
        ],
    )
    def test_anything_else_is_refused_with_the_allowed_forms(self, value: object) -> None:
        with pytest.raises(SpecError) as caught:
            parse_duration(value, "timeout")
        assert str(caught.value) == f"timeout={value!r} is no duration; write {DURATION_FORMS}"

    @pytest.mark.parametrize("value", [0, "0", "0s", "00:00:00", -1, -0.5])
    def test_no_time_at_all_is_refused(self, value: object) -> None:
        with pytest.raises(SpecError) as caught:
            parse_duration(value)
        assert str(caught.value) == f"time={value!r} must be more than zero; write {DURATION_FORMS}"


class TestTexts:
    @pytest.mark.parametrize(
        ("size_bytes", "text"),
        [
            (None, "-"),
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (3 * 2**29, "1.5 GiB"),
            (12 * 2**30 + 2**29, "12 GiB"),
            (5 * 2**50, "5120 TiB"),
        ],
    )
    def test_a_size_is_short(self, size_bytes: int | None, text: str) -> None:
        assert format_memory(size_bytes) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (None, "-"),
            (0, "0.00 s"),
            (0.314, "0.31 s"),
            (42.4, "42 s"),
            (60, "1 m 00 s"),
            (245, "4 m 05 s"),
            (3600, "1 h 00 m"),
            (7800, "2 h 10 m"),
            (100 * 3600, "100 h 00 m"),
        ],
    )
    def test_a_duration_is_short(self, seconds: float | None, text: str) -> None:
        assert format_duration(seconds) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (1, "00:00:01"),
            (0.1, "00:00:01"),
            (300, "00:05:00"),
            (86399.5, "1-00:00:00"),
            (86400, "1-00:00:00"),
            (2 * 86400 + 3723, "2-01:02:03"),
        ],
    )
    def test_a_schedulers_clock_is_rounded_up_and_can_be_read_back(self, seconds: float, text: str) -> None:
        assert clock_text(seconds) == text
        assert parse_duration(text) >= seconds
