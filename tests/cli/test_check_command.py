"""``clusterjobs check`` as a shell shows it."""

from __future__ import annotations

import pytest

from pytest_clusterjobs.backends.base import BackendInfo, Partition
from pytest_clusterjobs.cli.check import _table
from pytest_clusterjobs.engine.probe import Probe


def test_reasons_are_whole_lines_with_all_their_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were folded into a column of twenty letters, and what stands in brackets was taken for a style."""
    monkeypatch.setenv("COLUMNS", "80")
    missing = "kubernetes: its client is not installed: pip install pytest-clusterjobs[kubernetes]"
    info = BackendInfo("slurm-wlm 22.05.8", nodes=4, partitions=(Partition("main", is_default=True), Partition("[b]")))
    _table([Probe("slurm", True, info, ""), Probe("kubernetes", False, None, missing), Probe("x", False, None, "x: y")])
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        "backend usable version nodes partitions",
        "slurm yes slurm-wlm 22.05.8 4 main*, [b]",
        "kubernetes no",
        "x no",
        "",
        missing,
        "x: y",
    ]


def test_nothing_stands_below_when_all_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    _table([Probe("local", True, BackendInfo("local", nodes=1), "")])
    assert [line.split() for line in capsys.readouterr().out.splitlines()][1:] == [["local", "yes", "local", "1"]]


def test_limits_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They were asked for, and shown in JSON alone."""
    monkeypatch.setenv("COLUMNS", "120")
    queues = (Partition("short", is_default=True, max_time_s=3600), Partition("long", max_time_s=86400, status="drain"))
    info = BackendInfo("SGE 8.1.9", 2, 16, 4, queues, 75000, "parallel environments: smp ($pe_slots)")
    _table([Probe("sge", True, info, "")])
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown[1:] == [
        "sge yes SGE 8.1.9 2 short* (at most 1 h 00 m), long (at most 24 h 00 m, drain)",
        "",
        "sge: at most 16 cores a node; 4 GPUs; arrays of at most 75000 jobs; parallel environments: smp ($pe_slots)",
    ]
