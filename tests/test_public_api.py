"""What `import pytest_clusterjobs` gives: all of it announced, documented, and loaded when it is used."""

from __future__ import annotations

import ast
import enum
import importlib.metadata
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pytest_clusterjobs

SOURCE = Path(pytest_clusterjobs.__file__)


def type_checking_names() -> list[str]:
    """Give the names that type checkers see."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return sorted(name.name for block in blocks for node in block.body for name in getattr(node, "names", []))


def test_all_is_sorted_and_type_checkers_see_the_same_names() -> None:
    assert pytest_clusterjobs.__all__ == sorted(set(pytest_clusterjobs.__all__))
    assert type_checking_names() == pytest_clusterjobs.__all__


@pytest.mark.parametrize("name", pytest_clusterjobs.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(pytest_clusterjobs, name)
    assert (inspect.getdoc(value) or "").strip()
    assert name in dir(pytest_clusterjobs)


def public_members() -> Iterator[tuple[str, Any]]:
    for name in pytest_clusterjobs.__all__:
        value = getattr(pytest_clusterjobs, name)
        kind = value if inspect.isclass(value) else type(value)
        for member, it in vars(kind).items():
            if not member.startswith("_") and (inspect.isfunction(it) or isinstance(it, (property, staticmethod))):
                yield f"{name}.{member}", it


@pytest.mark.parametrize(
    ("name", "member"), list(public_members()), ids=lambda value: value if type(value) is str else ""
)
def test_a_public_method_says_what_the_caller_gets(name: str, member: Any) -> None:
    first = (inspect.getdoc(member) or "").partition("\n")[0]
    assert first, name
    assert (inspect.getdoc(member) or "").partition("\n\n")[0].endswith((".", "::")), name


@pytest.mark.parametrize("name", pytest_clusterjobs.__all__)
def test_a_public_attribute_has_its_line(name: str) -> None:
    """Attributes of dataclasses, of enums and those set in ``__init__``: each with ``#:`` above it."""
    value = getattr(pytest_clusterjobs, name)
    kind = value if inspect.isclass(value) else type(value)
    if issubclass(kind, Exception):
        return
    source = inspect.getsource(kind).splitlines()
    pattern = r"    ([a-z]\w*): .*|        self\.([a-z]\w*)(: .*)? = .*"
    if issubclass(kind, enum.Enum):
        pattern = r"    ([A-Z]\w*) = .*"
    bare: dict[str, bool] = {}
    for before, line in zip(["", *source], source, strict=False):
        if match := re.fullmatch(pattern, line):
            bare.setdefault(next(group for group in match.groups() if group), not before.strip().startswith("#:"))
    assert [attribute for attribute, is_bare in bare.items() if is_bare] == []


def test_the_version_is_the_distributions() -> None:
    assert pytest_clusterjobs.__version__ == importlib.metadata.version("pytest-clusterjobs")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pytest_clusterjobs' has no attribute 'clutser'"):
        pytest_clusterjobs.clutser  # noqa: B018 - the access is what is tested


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, pytest_clusterjobs\n"
        "print(sorted(name for name in sys.modules if name.startswith('pytest_clusterjobs')))\n"
        "pytest_clusterjobs.JobState\n"
        "print('pytest_clusterjobs.engine' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["['pytest_clusterjobs']", "False"]


def test_a_star_import_gives_them_all() -> None:
    names: dict[str, Any] = {}
    exec("from pytest_clusterjobs import *", names)  # noqa: S102 - a constant
    assert set(pytest_clusterjobs.__all__) <= set(names)
