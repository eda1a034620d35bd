"""Configuration files: which there are, and what stands in them at which line. YAML and TOML are loaded here alone."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_clusterjobs.core.errors import ConfigError

#: Name of a project's file.
FILE_NAME = "clusterjobs.yaml"
#: Names the project's file, in place of a search.
VARIABLE = "CLUSTERJOBS_CONFIG"

#: Where something stands in a file: keys, and numbers of list elements.
KeyPath = tuple[str | int, ...]

_TEXT = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says."""

    #: Absolute.
    path: str
    #: Its settings, as they were written.
    data: Mapping[Any, Any]
    #: Line of each key and list element, as far as known, from 1.
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    #: What is wrong with it already: keys that are there twice, or are no texts.
    problems: tuple[str, ...] = ()

    def place(self, path: KeyPath) -> str:
        """Give ``file:line`` for a key, or for the nearest above it whose line is known."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.path}:{self.lines[path[:length]]}"
        return self.path


def dotted(path: Iterable[str | int]) -> str:
    """Write a key path for people: ``profiles.short.modules[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


# ---------------------------------------------------------------- which files there are


def find(start: str) -> list[str]:
    """Give the files that count for a directory, the user's first: what stands in later ones wins.

    Raises:
        ConfigError: The one that the variable names is not there, or a directory has two.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        path = os.path.abspath(os.path.expanduser(given))
        if not os.path.isfile(path):
            raise ConfigError(f"{VARIABLE}: there is no file {path!r}")
        return [*_user_file(), path]
    return [*_user_file(), *_project_file(os.path.abspath(start))]


def user_path() -> str:
    """Give the path of the user's file, whether there is one or not."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(home, "clusterjobs", "config.yaml")


def _user_file() -> list[str]:
    return [user_path()] if os.path.isfile(user_path()) else []


def _project_file(start: str) -> list[str]:
    for folder in _upwards(start):
        found = [path for path in (os.path.join(folder, FILE_NAME),) if os.path.isfile(path)]
        if not found and os.path.isfile(other := os.path.join(folder, "clusterjobs.yml")):
            raise ConfigError(f"{other}: the file must be named {FILE_NAME}")
        if has_table(toml := os.path.join(folder, "pyproject.toml")):
            found.append(toml)
        if len(found) > 1:
            raise ConfigError(f"{found[0]} and [tool.clusterjobs] in {found[1]} are two files of one project; keep one")
        if found:
            return found
    return []


def _upwards(start: str) -> Iterator[str]:
    """Give a directory and those above it, but for those where anybody could have put a file for us."""
    folder = start
    while True:
        try:
            is_open = bool(os.stat(folder).st_mode & stat.S_IWOTH)
        except OSError:
            is_open = True
        if folder == start or not is_open:
            yield folder
        if folder == os.path.dirname(folder):
            return
        folder = os.path.dirname(folder)


def has_table(path: str) -> bool:
    """Tell whether a ``pyproject.toml`` has the table ``tool.clusterjobs``.

    Raises:
        ConfigError: It is no TOML.
    """
    try:
        with open(path, "rb") as file:
            if b"clusterjobs" not in file.read():
                return False
    except OSError:
        return False
    return _table_of(_parse_toml(path, _text_of(path))) is not None


# ---------------------------------------------------------------- what stands in them


def read(path: str) -> Document:
    """Read a file.

    Raises:
        ConfigError: It cannot be read, or is no YAML or TOML. The message quotes no line: it may hold secrets.
    """
    text = _text_of(path)
    return _read_toml(path, text) if path.endswith(".toml") else _read_yaml(path, text)


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text (byte {error.start})") from None


def _read_yaml(path: str, text: str) -> Document:
    import yaml

    class Loader(yaml.SafeLoader):
        """Leaves out YAML 1.1's numbers of base 60: 1:30 would be 90, and is no duration of ours; 1:30:00 is one."""

        def resolve(self, kind: type[Any], value: Any, implicit: Any) -> str:
            tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # types-PyYAML has none
            is_base_60 = kind is yaml.ScalarNode and ":" in value and tag.endswith((":int", ":float"))
            return _TEXT if is_base_60 else tag

    loader = Loader(text)
    try:
        node = loader.get_single_node()
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: is no YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: is no YAML: {type(error).__name__}") from None
    finally:
        loader.dispose()
    if data is None:
        return Document(path, {})
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: must be a mapping with the keys defaults and profiles")
    lines: dict[KeyPath, int] = {}
    return Document(path, data, lines, tuple(_walk(path, node, (), lines, set())))


def _walk(file: str, node: Any, path: KeyPath, lines: dict[KeyPath, int], seen: set[int]) -> Iterator[str]:
    """Note the line of each key; give a complaint for each that is there twice or is no text."""
    if id(node) in seen:  # an anchor's second use
        return
    seen.add(id(node))
    if node.id == "sequence":
        for index, item in enumerate(node.value):
            lines.setdefault((*path, index), item.start_mark.line + 1)
            yield from _walk(file, item, (*path, index), lines, seen)
    if node.id != "mapping":
        return
    own: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        inner: KeyPath = (*path, name)
        if key.tag != _TEXT:
            yield f"{file}:{line}: {dotted(inner)}: a key must be a text; quote it"
        if name in own:
            yield f"{file}:{line}: {dotted(inner)}: is there already, in line {own[name]}"
        own.setdefault(name, line)
        lines.setdefault(inner, line)
        yield from _walk(file, value, inner, lines, seen)


def _read_toml(path: str, text: str) -> Document:
    table = _table_of(_parse_toml(path, text))
    if table is None:
        return Document(path, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: tool.clusterjobs must be a table")
    return Document(path, table, _lines_of_toml(text))


def _parse_toml(path: str, text: str) -> Mapping[str, Any]:
    import importlib

    # Python 3.10 has no tomllib, and there pytest depends on tomli.
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        data: Mapping[str, Any] = toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from None
    return data


def _table_of(data: Mapping[str, Any]) -> Any:
    tool = data.get("tool")
    return tool.get("clusterjobs") if isinstance(tool, dict) else None


def _lines_of_toml(text: str) -> dict[KeyPath, int]:
    """Find the lines of tables and keys. The parser does not tell; keys in inline tables have their table's line."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$", line):
            table = _key_path(match[1])
            lines.setdefault(table[2:], number)
        elif match := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            path = (*table, *_key_path(match[1]))
            for length in range(3, len(path) + 1):
                if path[:2] == ("tool", "clusterjobs"):
                    lines.setdefault(path[2:length], number)
    lines.pop((), None)
    return lines


def _key_path(text: str) -> KeyPath:
    return tuple(part.strip().strip("\"'") for part in text.split("."))
