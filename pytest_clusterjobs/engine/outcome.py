"""Turn an envelope back into what a local call would have given: the value, or the same exception with its frames."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Mapping
from typing import Any

from pytest_clusterjobs.core.errors import JobFailed, RemoteError
from pytest_clusterjobs.engine.payload import loads

# Raised at home they would end pytest itself, or mean something else than in the job.
_NEVER_RERAISED = (SystemExit, KeyboardInterrupt, GeneratorExit)


def rebuild_exception(header: Mapping[str, Any], segments: Mapping[str, bytes], name: str) -> BaseException:
    """Give the job's exception with its causes and a traceback that names the frames of the node.

    An exception that did not survive pickling becomes a `RemoteError` with its type's name and text.
    """
    chain: list[BaseException] = []
    for index, description in enumerate(header["chain"]):
        error = _rebuild_one(description, segments.get(f"exception{index}"), name)
        error.__traceback__ = traceback_of(description["frames"])
        if chain:
            if header["chain"][index]["link"] == "cause":
                chain[-1].__cause__ = error
            else:
                chain[-1].__context__ = error
        chain.append(error)
    return chain[0]


def _rebuild_one(description: Mapping[str, Any], pickled: bytes | None, name: str) -> BaseException:
    kind = f"{description['module']}.{description['type']}".removeprefix("builtins.")
    text = description["message"]
    if pickled is not None:
        try:
            error = loads(pickled)
        except Exception as failure:
            text += f"\n(it cannot be unpickled here: {type(failure).__name__}: {failure})"
        else:
            if isinstance(error, BaseException) and not isinstance(error, _NEVER_RERAISED):
                return error
    if description["type"] in {"SystemExit", "KeyboardInterrupt", "GeneratorExit"}:
        return JobFailed(f"{name} raised {kind}({text})" if text else f"{name} raised {kind}")
    return RemoteError(f"{name} raised {kind}: {text}")


def traceback_of(frames: list[list[Any]]) -> types.TracebackType | None:
    """Make a traceback that looks as if the frames had been here.

    Args:
        frames: ``[file name, function name, its first line, line, [end line, column, end column]]``, outermost first;
            the last item is None where the node's Python knows no columns.
    """
    traceback: types.TracebackType | None = None
    for filename, function, first_line, line, span in reversed(frames):
        frame = _frame(str(filename), str(function), int(first_line), int(line), span)
        traceback = types.TracebackType(traceback, frame, frame.f_lasti, int(line))
    return traceback


def _frame(filename: str, function: str, first_line: int, line: int, span: list[int | None] | None) -> types.FrameType:
    """Make a frame of a function that stands where the node's did and does nothing but tell its own frame."""
    end_line, column, end_column = span if span and None not in span else (line, 0, 0)
    tree = ast.parse("def function():\n return frame()")
    definition = tree.body[0]
    for node in ast.walk(definition):
        if isinstance(node, (ast.stmt, ast.expr)):
            node.lineno, node.end_lineno = line, end_line
            node.col_offset, node.end_col_offset = column or 0, end_column
    if isinstance(definition, ast.FunctionDef):
        definition.lineno, definition.end_lineno = min(first_line, line), end_line
    made: dict[str, Any] = {"frame": lambda: sys._getframe(1)}
    exec(compile(tree, filename, "exec"), made)  # noqa: S102 - the tree above, with nothing of the job in it
    code = made["function"].__code__.replace(co_name=function)
    frame: types.FrameType = types.FunctionType(code, {**made, "__name__": function})()
    return frame
