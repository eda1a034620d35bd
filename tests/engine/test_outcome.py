"""An exception of a job comes back as itself, with the frames of the node and its causes."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.core.errors import JobFailed, RemoteError
from pytest_clusterjobs.engine.outcome import rebuild_exception, traceback_of
from pytest_clusterjobs.engine.payload import loads, pack
from pytest_clusterjobs.node import packing

HOME = [__name__, "__main__"]


class NeedsKeyword(Exception):
    """Python's own pickling would make it from its text alone."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class PutsTogether(OSError):
    """Python's own pickling would make its text twice."""

    def __init__(self, path: str) -> None:
        super().__init__(f"cannot read {path}")


@dataclass
class Plain(KeyError):
    """Has no call of ``super().__init__``."""

    code: int


class Slotted(Exception):
    """Has an attribute that is not in its dictionary."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class Revived(Exception):
    """Says itself how it is pickled, and can be unpickled no more."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class HoldsFile(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.file = sys.stdout


class Odd(Exception):
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise ValueError("no")


def sent(raises: Callable[[], Any], home: list[str] | None = None) -> BaseException:
    """Have a function raise, pack that as a node does, and give what comes out at home."""
    try:
        raises()
    except BaseException as error:
        header, segments = packing.pack_exception(error, HOME if home is None else home)
        return rebuild_exception(header, segments, "cj-1")
    raise AssertionError("it did not raise")


def fail(error: BaseException) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


def test_type_arguments_attributes_and_notes_come_back() -> None:
    error = OSError(2, "No such file", "/x")
    error.__dict__["hint"] = {"try": 1}
    error.__dict__["__notes__"] = ["a note"]
    back = sent(fail(error))
    assert type(back) is FileNotFoundError
    assert (back.args, back.filename, back.hint) == ((2, "No such file"), "/x", {"try": 1})  # type: ignore[attr-defined]
    assert getattr(back, "__notes__", None) == ["a note"]


@pytest.mark.parametrize(
    "error",
    [
        NeedsKeyword(code=3),
        PutsTogether("/x"),
        Plain(3),
        Plain(code=3),
        Slotted(3),
    ],
    ids=repr,
)
def test_exception_with_an_init_of_its_own_comes_back_as_it_was(error: Exception) -> None:
    """Its ``__init__`` was called again with its ``args``: it became a RemoteError, or said its words twice."""
    back = sent(fail(error))
    assert type(back) is type(error)
    assert (str(back), back.args) == (str(error), error.args)
    assert getattr(back, "code", None) == getattr(error, "code", None)


def test_exception_with_an_init_of_its_own_travels_as_an_argument_too() -> None:
    payload = pack(str, [((NeedsKeyword(code=3),), {})], "text")
    ((error,), _) = loads(payload.arguments[0])
    assert (str(error), error.code) == ("code 3", 3)


def test_frames_are_those_of_the_node() -> None:
    def inner() -> None:
        raise ValueError("x")

    back = sent(lambda: inner())
    frames = traceback.extract_tb(back.__traceback__)
    assert [frame.name for frame in frames][-2:] == ["<lambda>", "inner"]
    assert {frame.filename for frame in frames} == {__file__}
    assert frames[-1].line == 'raise ValueError("x")'


def test_refused_call_inside_a_job_points_to_the_call() -> None:
    back = sent(lambda: packing.NestedFunction(len, {})("x"))
    assert "len.local(...)" in str(back)
    assert [frame.name for frame in traceback.extract_tb(back.__traceback__)][-1] == "<lambda>"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 knows no columns")
def test_columns_mark_the_part_that_failed() -> None:
    text = "".join(traceback.format_exception(sent(lambda: 1 + 1 // 0)))
    assert "~~^^~~" in text


def test_chain_of_causes_and_contexts_comes_back() -> None:
    def raises() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise TypeError("second")  # noqa: B904 - the context is the point
        except TypeError as error:
            raise ValueError("third") from error

    third = sent(raises)
    second = third.__cause__
    assert (type(third), type(second)) == (ValueError, TypeError)
    assert second is not None
    assert second.__cause__ is None
    assert type(second.__context__) is KeyError
    assert [frame.name for frame in traceback.extract_tb(second.__traceback__)] == ["raises"]


def test_suppressed_context_stays_suppressed() -> None:
    def raises() -> None:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None

    text = "".join(traceback.format_exception(sent(raises)))
    assert "shown" in text
    assert "hidden" not in text


def test_exceptions_that_cause_each_other_come_to_an_end() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert str(sent(fail(one))) == "one"


@pytest.mark.parametrize(
    ("error", "text"),
    [(SystemExit(3), "SystemExit(3)"), (SystemExit(), "SystemExit"), (KeyboardInterrupt(), "KeyboardInterrupt")],
)
def test_what_would_end_pytest_is_an_error_of_the_job(error: BaseException, text: str) -> None:
    back = sent(fail(error))
    assert type(back) is JobFailed
    assert str(back) == f"cj-1 raised {text}"


def test_system_exit_as_a_cause_is_no_system_exit_here() -> None:
    def raises() -> None:
        try:
            sys.exit(3)
        except SystemExit as error:
            raise ValueError("x") from error

    assert type(sent(raises).__cause__) is JobFailed


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Revived("again"), f"cj-1 raised {__name__}.Revived: again"),
        (HoldsFile("open"), f"cj-1 raised {__name__}.HoldsFile: open"),
    ],
)
def test_exception_that_does_not_survive_pickling_is_a_remote_error_with_its_words(error: Exception, text: str) -> None:
    back = sent(fail(error))
    assert type(back) is RemoteError
    assert str(back).splitlines()[0] == text
    assert [frame.name for frame in traceback.extract_tb(back.__traceback__)][-1] == "raises"


def test_exception_that_cannot_be_printed_comes_back_all_the_same() -> None:
    assert type(sent(fail(Odd()))) is Odd
    assert packing.describe_exception(Odd(), "")["message"] == "<str() failed: ValueError>"


def test_exception_whose_class_is_not_here_is_a_remote_error_that_says_so(tmp_path: Path) -> None:
    program = """
import sys, pickle, types
sys.path.insert(0, sys.argv[1])
from pytest_clusterjobs.node import packing
module = sys.modules["only_there"] = types.ModuleType("only_there")
exec("class Gone(Exception): pass", module.__dict__)
try:
    raise module.Gone("bye")
except Exception as error:
    print(pickle.dumps(packing.pack_exception(error, ["only_there"])).hex())
"""
    import pickle

    root = str(Path(packing.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", program, root], capture_output=True, text=True, check=True)
    header, segments = pickle.loads(bytes.fromhex(done.stdout))
    back = rebuild_exception(header, segments, "cj-1")
    assert type(back) is RemoteError
    assert "only_there.Gone: bye" in str(back)


def test_traceback_of_no_frames_is_none() -> None:
    assert traceback_of([]) is None


def test_frames_of_files_and_names_that_are_odd_do_no_harm() -> None:
    made = traceback_of([["<string>", "<module>", 1, 1, None], ["/no/such file", "f'\"\n", 10, 3, [3, None, None]]])
    shown = traceback.extract_tb(made)
    assert [(frame.filename, frame.lineno) for frame in shown] == [("<string>", 1), ("/no/such file", 3)]
