"""Settings are checked when they are made."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.config.settings import WORKDIR_NAME, Settings
from pytest_clusterjobs.core.errors import ConfigError


def test_defaults_limit_nothing_and_keep_what_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CLUSTERJOBS_WORKDIR", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.workdir == str(tmp_path / WORKDIR_NAME)
    assert (settings.keep, settings.python) == ("failed", sys.executable)
    assert (settings.max_jobs, settings.timeout_s, settings.queue_timeout_s) == (None, None, None)
    assert settings.command_timeout_s > 0
    assert settings.lost_after_s > 0


def test_environment_gives_the_work_directory_where_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_WORKDIR", "/scratch/me")
    assert Settings().workdir == "/scratch/me"
    assert Settings(workdir="/x").workdir == "/x"


def test_relative_work_directory_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(workdir="a/../b").workdir == str(tmp_path / "b")
    monkeypatch.setenv("CLUSTERJOBS_WORKDIR", "c")
    assert Settings().workdir == str(tmp_path / "c")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keep": "fail"}, "did you mean 'failed'"),
        ({"keep": "sometimes"}, "must be one of failed, always, never"),
        ({"max_jobs": 0}, "max_jobs=0 must be 1 or more"),
        ({"max_jobs": -1}, "max_jobs=-1"),
        ({"workdir": "/a\nb"}, "no control character"),
        ({"workdir": "/a\\b"}, "no backslash"),
    ],
)
def test_wrong_value_is_an_error_that_names_it(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**wrong)


def test_odd_but_possible_work_directories_are_taken() -> None:
    for path in ("/a b", "/100%", "/it's", "/ü", "/$HOME"):
        assert Settings(workdir=path).workdir == path


def test_settings_cannot_be_changed_by_the_way() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().keep = "never"  # type: ignore[misc]
    assert dataclasses.replace(Settings(), keep="never").keep == "never"
    assert os.path.isabs(Settings().workdir)
