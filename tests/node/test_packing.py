"""What travels home: values and exceptions, each in the cheapest form that brings it back whole."""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.engine.payload import checksum
from pytest_clusterjobs.node import packing

if TYPE_CHECKING:
    from tests.node_bench import BARE_PYTHON, NODE, Node
else:
    from node_bench import BARE_PYTHON, NODE, Node

HOME = [__name__, "__main__"]


class Thing:
    """A class of the test's own."""

    class Inner:
        """A class in a class."""


class Grumpy:
    """Can be neither pickled nor shown."""

    def __reduce__(self) -> Any:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def bare(program: str, *argv: str) -> str:
    """Run a program with the node's files alone."""
    start = f"""
import sys, types
package = types.ModuleType("_clusterjobs_node")
package.__path__ = [{str(NODE)!r}]
sys.modules["_clusterjobs_node"] = package
from _clusterjobs_node import packing
"""
    argv = (BARE_PYTHON, "-S", "-c", start + program, *argv)
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("value", [None, 1, 1.5, "x", b"y", [1, (2, {3})], {"a": frozenset({1})}, [[]] * 100, 1j, True])
def test_plain_values_need_no_cloudpickle(value: object) -> None:
    program = f"packing.pickled_value({value!r}, []); print('cloudpickle' in sys.modules, 'pkgutil' in sys.modules)"
    assert bare(program) == "False False"


@pytest.mark.parametrize("value", [[0] * 5000, {"a": Thing}, [object()], [[[[Thing()]]]]])
def test_large_and_other_values_are_left_to_cloudpickle(value: object) -> None:
    assert packing._is_plain(value, 1000)[0] is False
    assert len(pickle.loads(packing.pickled_value(value, HOME))) == len(value)  # type: ignore[arg-type]


def test_deep_value_comes_back() -> None:
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    assert pickle.loads(packing.pickled_value(value, HOME)) == value


def test_what_lies_in_a_file_or_in_the_order_is_loaded_when_its_checksum_is_right(tmp_path: Path) -> None:
    data = pickle.dumps([1, "two"])
    (tmp_path / "part.pkl").write_bytes(data)
    for part in ({"path": "part.pkl"}, {"data": base64.b64encode(data).decode()}):
        assert packing.load_checked({**part, "sha256": checksum(data)}, str(tmp_path)) == [1, "two"]
        with pytest.raises(ValueError, match="is not what was sent: its checksum differs"):
            packing.load_checked({**part, "sha256": checksum(b"other")}, str(tmp_path))


def test_value_that_holds_itself_comes_back() -> None:
    """Its value was called one that cannot be pickled."""
    value: list[Any] = [1]
    value.append(value)
    back = pickle.loads(packing.pickled_value(value, HOME))
    assert back[1] is back


@pytest.mark.parametrize("named", [Thing, Thing.Inner, bare])
def test_what_lives_at_home_goes_by_name(named: object) -> None:
    data = packing.dumps(named, HOME)
    assert len(data) < 200
    assert pickle.loads(data) is named


def test_class_made_in_a_function_goes_by_value() -> None:
    class Local:
        x = 1

    assert pickle.loads(packing.dumps(Local, HOME)).x == 1


def test_value_that_cannot_be_pickled_is_described_whatever_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    header, segments = packing.pack_value(Grumpy(), HOME)
    assert (header["outcome"], header["exit_code"], segments) == ("unpicklable", 1, {})
    assert header["text"] == "the function returned a Grumpy that cannot be pickled: SystemExit: 3"
    assert header["repr"] == "<repr() failed: ValueError>"
    assert "cannot be pickled" in capsys.readouterr().err


def test_long_text_of_a_value_is_cut() -> None:
    assert len(packing.short_repr("x" * 10_000)) == 500


# ---------------------------------------------------------------- exceptions


def test_chain_is_bounded() -> None:
    error = ValueError("0")
    for number in range(1, 50):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    header, segments = packing.pack_exception(error, HOME)
    assert len(header["chain"]) == len(segments) == 10


def test_frames_are_bounded() -> None:
    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        raise ValueError("deep")

    with pytest.raises(ValueError, match="deep") as caught:
        deep(400)
    assert len(packing.describe_exception(caught.value, "")["frames"]) == 200


def test_exception_that_cannot_be_unpickled_has_no_pickle() -> None:
    class Picky(Exception):
        def __reduce__(self) -> Any:
            return int, ("no number",)

    assert packing.pickle_exception(Picky(), HOME) is None
    assert packing.pickle_exception(ValueError(1), HOME) is not None


def test_exception_that_becomes_another_type_has_no_pickle() -> None:
    class Changes(Exception):
        def __reduce__(self) -> Any:
            return ValueError, ("x",)

    assert packing.pickle_exception(Changes(), HOME) is None


def test_outcomes_of_pytest_are_quiet_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    for raises in (pytest.skip, pytest.fail, pytest.xfail):
        with pytest.raises(BaseException, match="a reason") as caught:
            raises("a reason")
        header, segments = packing.pack_exception(caught.value, [])
        assert type(pickle.loads(segments["exception0"])) is caught.type
        assert header["exit_code"] == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("code", "exit_code"), [(None, 0), (0, 0), (3, 3), ("words", 1), (True, 1), (-1, -1), ([1], 1)]
)
def test_exit_code_of_sys_exit_is_what_the_interpreter_s_would_be(code: Any, exit_code: int) -> None:
    header, _ = packing.pack_exception(SystemExit(code), HOME)
    assert header["exit_code"] == exit_code


def test_own_frames_are_left_out() -> None:
    namespace: dict[str, Any] = {}
    path = os.path.join(os.path.dirname(packing.__file__), "runner.py")
    exec(compile("def run(call):\n    call()", path, "exec"), namespace)  # noqa: S102 - a frame of a file that lies there

    def fails() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x") as caught:
        namespace["run"](fails)
    traceback = caught.value.__traceback__
    assert traceback is not None
    own = packing.without_own_frames(traceback.tb_next)
    assert own.tb_frame.f_code.co_name == "fails"


# ---------------------------------------------------------------- warnings, checksums, modules


def test_warning_that_cannot_be_pickled_goes_as_its_text() -> None:
    class Odd(UserWarning):
        def __reduce__(self) -> Any:
            raise ValueError("no")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(Odd("hear"), stacklevel=1)
        warnings.warn("this", DeprecationWarning, stacklevel=1)
    packed = pickle.loads(packing.pack_warnings(list(caught), HOME))
    assert [(str(message), category) for message, category, *_ in packed] == [
        ("hear", UserWarning),
        ("this", DeprecationWarning),
    ]


def test_checksum_is_sha_256_of_all_parts() -> None:
    assert packing.sha256(b"ab", b"", b"c") == checksum(b"abc")
    assert packing.sha256() == checksum(b"")


def test_checksum_loads_no_openssl() -> None:
    assert bare("packing.sha256(b'x'); print('hashlib' in sys.modules, '_ssl' in sys.modules)") == "False False"


def test_lazy_module_is_imported_when_something_is_asked_of_it() -> None:
    lazy = packing.LazyModule("colorsys")
    before = sys.modules.pop("colorsys", None)
    try:
        assert not hasattr(lazy, "__wrapped__")
        assert "colorsys" not in sys.modules
        assert lazy.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
        assert "colorsys" in sys.modules
        assert type(pickle.loads(pickle.dumps(lazy))) is packing.LazyModule
    finally:
        if before is not None:
            sys.modules["colorsys"] = before


def test_two_copies_of_this_module_in_one_process_are_one_for_pickles() -> None:
    """A job that submitted a job had no end: its pickles of functions were not found under the name they gave."""
    program = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("second", {str(NODE / "packing.py")!r})
second = importlib.util.module_from_spec(spec)
sys.modules["second"] = second
spec.loader.exec_module(second)
print(second.make_function is packing.make_function, second.NestedFunction is packing.NestedFunction)
"""
    assert bare(program) == "True True"


def test_module_by_name_is_the_module_itself_and_not_its_package() -> None:
    assert packing.load_module("os.path") is os.path
    assert packing.load_module("xml.dom").__name__ == "xml.dom"
    made = packing.make_module("m")
    assert isinstance(made, types.ModuleType)
    assert "m" not in sys.modules


def test_function_that_uses_a_module_needs_no_cloudpickle(node: Node) -> None:
    """Its name alone travels; loading cloudpickle for that cost more than the rest of a small job."""

    def use() -> bool:
        return os.sep in sys.path[0] or "cloudpickle" in sys.modules

    def look() -> bool:
        use()
        return "cloudpickle" in sys.modules

    assert node.call(look).value() is False
