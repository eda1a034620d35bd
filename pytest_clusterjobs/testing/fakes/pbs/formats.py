"""How PBS prints attributes: folded text, ``-w``, JSON in two flavours, ``dsv``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Attributes in the order of their printing; a value that is itself a mapping is ``name.key`` in text.
Attributes = Mapping[str, Any]

_LINE = 80
_COMMA = 76
_INDENT = 4


def text(header: str, name: str, attributes: Attributes, *, is_wide: bool = False) -> str:
    """Give ``Job Id: 1.server`` and its attributes, a line each, folded unless wide, and an empty line."""
    lines = [f"{header}{name}"]
    for key, value in flat(attributes):
        lines.append(f"    {key} = {_visible(value)}" if is_wide else fold(key, value))
    return "\n".join(lines) + "\n\n"


def _visible(value: str) -> str:
    return value.replace("\n", "\\n")


def fold(key: str, value: str) -> str:
    """Write an attribute in lines of 79 columns: split at commas where that helps, and anywhere else.

    A tab, with which the lines after the first begin, counts as four columns less one.
    """
    written = f"{' ' * _INDENT}{key} = "
    column = len(written) + 1
    pieces = value.split(",")
    for number, piece in enumerate(pieces):
        piece += "," if number + 1 < len(pieces) else ""
        if number and column + len(piece) > _COMMA:
            written += "\n\t"
            column = _INDENT
        while column + len(piece) > _LINE:
            written += piece[: _LINE - column] + "\n\t"
            piece, column = piece[_LINE - column :], _INDENT
        written += piece
        column += len(piece)
    return written


def dsv(name: str, attributes: Attributes, separator: str) -> str:
    """Give ``qstat -f -F dsv``: one line for a job."""
    return separator.join([f"Job Id: {name}", *(f"{key}={value}" for key, value in flat(attributes))]) + "\n"


def flat(attributes: Attributes) -> list[tuple[str, str]]:
    """Give attributes as text has them: ``Resource_List.ncpus``, and environments as one list."""
    found = []
    for key, value in attributes.items():
        if key == "Variable_List":
            found.append((key, ",".join(f"{name}={_escaped(each)}" for name, each in value.items())))
        elif isinstance(value, Mapping):
            found += [(f"{key}.{name}", str(each)) for name, each in value.items()]
        else:
            found.append((key, str(value)))
    return found


def _escaped(value: str) -> str:
    return re.sub(r"([\\,])", r"\\\1", value)


def json_document(parts: Attributes, *, is_strict: bool) -> str:
    """Write a JSON document as PBS does.

    Args:
        parts: What is in it.
        is_strict: False as 23.06.06: numbers of the environment are written as they are, and backslashes stay single,
            whether that is JSON or not.
    """
    is_full = any(isinstance(value, Mapping) for value in parts.values())
    return _object(parts, 0, is_strict, False) + ("\n" if is_strict or is_full else "")


def _object(parts: Attributes, depth: int, is_strict: bool, is_free: bool) -> str:
    indent, gap = ("\t", ":\t") if is_strict else ("    ", ":")
    if not parts:
        return "{\n" + indent * depth + "}"
    lines = []
    for key, value in parts.items():
        if isinstance(value, Mapping):
            written = _object(value, depth + 1, is_strict, key == "Variable_List")
        else:
            written = _value(value, is_strict, is_free)
        lines.append(f'{indent * (depth + 1)}"{key}"{gap}{written}')
    return "{\n" + ",\n".join(lines) + "\n" + indent * depth + "}"


def _value(value: object, is_strict: bool, is_free: bool) -> str:
    if isinstance(value, int):
        return str(value)
    written = str(value)
    if is_free and _looks_like_a_number(written, is_strict):
        return f"{float(written):.15g}" if is_strict else written
    if is_free and is_strict and written in ("true", "false"):
        return written
    if is_free:
        written = written.replace('"', "")
    if is_strict:
        written = written.replace("\\", "\\\\")
    return '"' + written.replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'


def _looks_like_a_number(written: str, is_strict: bool) -> bool:
    if is_strict:
        return re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", written) is not None
    number = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|inf"
    return re.fullmatch(number, written) is not None and re.match(r"0\d", written) is None
