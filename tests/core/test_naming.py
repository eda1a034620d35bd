"""The nearest name for a typo, and names that no shell, directive or file system misunderstands."""

from __future__ import annotations

import re

import pytest

from pytest_clusterjobs.core.naming import nearest, slug


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("slrum", " — did you mean 'slurm'?"),
        ("SLURM", " — did you mean 'slurm'?"),
        ("locale", " — did you mean 'local'?"),
        ("kubernetes", ""),
        ("", ""),
    ],
)
def test_a_typo_gets_the_nearest_name_and_nonsense_gets_none(written: str, hint: str) -> None:
    assert nearest(written, ["local", "slurm"]) == hint


def test_the_nearest_name_is_spelled_as_it_is() -> None:
    assert nearest("tokne", ["TOKEN", "local"]) == " — did you mean 'TOKEN'?"


def test_nothing_is_near_where_nothing_is_known() -> None:
    assert nearest("slurm", []) == ""


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("heavy", "heavy"),
        ("<lambda>", "lambda"),
        ("a b/c", "a-b-c"),
        ("../../etc", "etc"),
        ("-rf", "rf"),
        ("x;rm -rf $HOME\n#", "x-rm-rf-HOME"),
        ("Müller", "M-ller"),
        ("日本", "job"),
        ("", "job"),
        ("...", "job"),
    ],
)
def test_a_slug_is_harmless_wherever_it_is_put(text: str, short: str) -> None:
    assert slug(text) == short


def test_a_slug_is_cut_without_a_dangling_separator() -> None:
    assert slug("x" * 100) == "x" * 40
    assert slug("abc-def", limit=4) == "abc"
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", slug("." * 39 + "-" + "y" * 90))
