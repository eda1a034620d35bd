"""What travels by value and what by name; what cannot travel is named before anything is submitted.

The jobs run with an interpreter that has neither this package nor pytest, after the project's files were removed: what
did not travel is not there.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import math
import shutil
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_clusterjobs import cluster
from pytest_clusterjobs.core.errors import PayloadError
from pytest_clusterjobs.engine import payload
from pytest_clusterjobs.engine.payload import import_path, modules_by_value, pack

if TYPE_CHECKING:
    from tests.node_bench import Finished, Node
else:
    from node_bench import Finished, Node

BASE = 100


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


class Project:
    """A user's project on disk, imported here as pytest would, and gone when its jobs run."""

    def __init__(self, root: Path, node: Node) -> None:
        self.root, self._node = root, node

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.root / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def load(self, name: str) -> types.ModuleType:
        return importlib.import_module(name)

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Finished:
        packed = pack(function, [(args, kwargs)], "function")
        shutil.rmtree(self.root)
        self._node.put_call(packed)
        return self._node.run()


@pytest.fixture
def project(tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    before = set(sys.modules)
    yield Project(root, node)
    for name in set(sys.modules) - before:
        del sys.modules[name]


# ---------------------------------------------------------------- functions of all kinds


def add(a: int, b: int = 1) -> int:
    return a + b + BASE


def is_even(n: int) -> bool:
    return True if n == 0 else is_odd(n - 1)


def is_odd(n: int) -> bool:
    return False if n == 0 else is_even(n - 1)


class Account:
    """A class of the test module."""

    rate = 2

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def grown(self, times: int) -> int:
        return self.amount * int(self.rate**times)

    @classmethod
    def named(cls) -> str:
        return cls.__name__

    @staticmethod
    def twice(x: int) -> int:
        return 2 * x

    def __call__(self, x: int) -> int:
        return self.amount + x


class Rich(Account):
    """Uses what needs the class's own cell."""

    def grown(self, times: int) -> int:
        return super().grown(times) + 1


@dataclasses.dataclass(frozen=True)
class Point:
    """A dataclass of the test module."""

    x: float
    y: float = 0.0


class Pair(NamedTuple):
    """A named tuple of the test module."""

    left: int
    right: int


class Colour(enum.Enum):
    """An enumeration of the test module."""

    RED = 1


def test_function_brings_the_globals_it_uses(node: Node) -> None:
    assert node.call(add, 1, b=2).value() == 103


def test_functions_that_call_each_other_travel_together(node: Node) -> None:
    assert node.call(is_even, 7).value() is False


def test_lambda_and_closure_travel(node: Node) -> None:
    factor, kept = 3, [1, 2]
    assert node.call(lambda x: [factor * x, *kept], 2).value() == [6, 1, 2]


def test_recursive_closure_travels(node: Node) -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert node.call(factorial, 6).value() == 720


def test_closure_over_a_variable_that_is_set_later_travels(node: Node) -> None:
    def use() -> object:
        return later

    packed = node.call(lambda: callable(use)).value()
    later = 1
    assert packed is True
    assert use() == later


def test_defaults_annotations_and_attributes_travel(node: Node) -> None:
    def function(a: int, *, b: list[int] = [1]) -> str:  # noqa: B006
        return f"{a} {b} {function.note}"  # type: ignore[attr-defined]

    function.note = "kept"  # type: ignore[attr-defined]
    assert node.call(function, 1).value() == "1 [1] kept"


@pytest.mark.parametrize(
    ("function", "args", "value"),
    [
        (Account(5).grown, (2,), 20),
        (Rich(5).grown, (2,), 21),
        (Account.named, (), "Account"),
        (Account.twice, (4,), 8),
        (Account(5), (4,), 9),
        (functools.partial(add, 1, b=4), (), 105),
        (math.factorial, (5,), 120),
        (len, ([1, 2],), 2),
        (str.upper, ("a",), "A"),
        ("text".replace, ("t", "b"), "bexb"),
    ],
    ids=["method", "super", "classmethod", "staticmethod", "callable", "partial", "C", "builtin", "slot", "bound"],
)
def test_callables_of_all_kinds_travel(node: Node, function: Callable[..., Any], args: Any, value: object) -> None:
    assert node.call(function, *args).value() == value


@pytest.mark.parametrize("value", [Point(1, 2), Pair(1, 2), Colour.RED, Account, Point, add, [Point(0)], {Colour.RED}])
def test_classes_and_values_of_the_test_module_come_back_as_themselves(node: Node, value: object) -> None:
    back = node.call(lambda given: given, value).value()
    assert back == value
    assert type(back) is type(value)


def test_class_made_in_a_function_works_on_the_node(node: Node) -> None:
    class Local:
        def tell(self) -> str:
            return type(self).__name__

    assert node.call(lambda: Local().tell()).value() == "Local"


def test_coroutine_function_is_awaited(node: Node) -> None:
    async def answer() -> int:
        import asyncio

        await asyncio.sleep(0)
        return 42

    assert node.call(answer).value() == 42


@pytest.mark.parametrize(
    "value", ["42", "None", None, {1, 2}, (1, [2]), b"\xff", 1 + 2j, float("inf"), {"a": (1,)}, ...]
)
def test_values_keep_their_type(node: Node, value: object) -> None:
    """A payload through stdout and ``literal_eval`` changed '42', 'None' and sets elsewhere."""
    back = node.call(lambda given: given, value).value()
    assert (back, type(back)) == (value, type(value))


# ---------------------------------------------------------------- modules


def test_module_beside_the_test_travels_by_value(project: Project) -> None:
    """Elsewhere such a function arrived by reference: ModuleNotFoundError on the node, or a silent hang."""
    project.write(test_user="from helper_beside import triple\ndef job(x): return triple(x)", helper_beside=TRIPLE)
    assert project.run(project.load("test_user").job, 2).value() == 6


TRIPLE = "FACTOR = 3\ndef triple(x): return FACTOR * x"


def test_module_used_as_an_object_travels(project: Project) -> None:
    project.write(test_user="import helper_beside\ndef job(x): return helper_beside.triple(x)", helper_beside=TRIPLE)
    assert project.run(project.load("test_user").job, 2).value() == 6


def test_module_renamed_at_its_import_travels(project: Project) -> None:
    project.write(test_user="import helper_beside as hb\ndef job(x): return hb.triple(x)", helper_beside=TRIPLE)
    assert project.run(project.load("test_user").job, 2).value() == 6


def test_conftest_travels_by_value(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Used as an object it did not: pytest's loader, which it holds, cannot be pickled."""
    monkeypatch.delitem(sys.modules, "conftest", raising=False)
    project.write(conftest=TRIPLE, test_user="import conftest\ndef job(x): return conftest.triple(x)")
    assert project.run(project.load("test_user").job, 2).value() == 6


def test_modules_that_import_each_other_travel(project: Project) -> None:
    """Their pickle had no end, so that only their names went."""
    project.write(
        one_beside="import two_beside\ndef one(x): return two_beside.two(x) + 1",
        two_beside="import one_beside\nimport sys\nme = sys.modules[__name__]\ndef two(x): return 2 * x",
        test_user="import one_beside\ndef job(x): return one_beside.one(x), one_beside.two_beside.me.two(x)",
    )
    assert project.run(project.load("test_user").job, 2).value() == (5, 4)


def test_second_module_of_one_name_is_not_mistaken_for_the_first(project: Project) -> None:
    """Two folders without __init__.py each have a conftest.py; only one of them is in sys.modules."""
    project.write(twice_there="WHO = 'first'", test_user="import twice_there\ndef job(): return twice_there.WHO")
    job = project.load("test_user").job
    del sys.modules["twice_there"]
    project.write(twice_there="WHO = 'the second'")
    assert project.load("twice_there").WHO == "the second"
    assert project.run(job).value() == "first"


def test_package_beside_the_test_travels_by_value(project: Project) -> None:
    project.write(
        helpers____init__="",
        test_user="from helpers_pkg.deep.er import top\ndef job(x): return top(x)",
    )
    for name, text in {"__init__": "", "deep/__init__": "from .er import top", "deep/er": ER, "base": TRIPLE}.items():
        path = project.root / "helpers_pkg" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert project.run(project.load("test_user").job, 2).value() == 7


ER = "from ..base import triple\ndef top(x): return triple(x) + 1"


def test_submodule_reached_through_its_package_travels(project: Project) -> None:
    for name, text in {"__init__": "", "base": TRIPLE}.items():
        path = project.root / "helpers_two" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    project.write(test_user="import helpers_two.base\ndef job(x): return helpers_two.base.triple(x)")
    assert project.run(project.load("test_user").job, 2).value() == 6


def test_class_of_a_module_beside_comes_back_as_itself(project: Project) -> None:
    project.write(
        shapes_beside="class Shape:\n    def __init__(self, n): self.n = n",
        test_user="from shapes_beside import Shape\ndef job(shape): return Shape(shape.n + 1)",
    )
    module = project.load("test_user")
    back = project.run(module.job, module.Shape(1)).value()
    assert type(back) is module.Shape
    assert back.n == 2


def test_exception_of_a_module_beside_comes_back_as_itself(project: Project) -> None:
    project.write(
        errors_beside="class DiskOnFireError(Exception): pass",
        test_user="from errors_beside import DiskOnFireError\ndef job(): raise DiskOnFireError('hot', 7)",
    )
    module = project.load("test_user")
    with pytest.raises(module.DiskOnFireError) as caught:
        project.run(module.job).value()
    assert caught.value.args == ("hot", 7)


def test_installed_package_goes_by_name(project: Project) -> None:
    import json

    names = {module.__name__ for module in modules_by_value()}
    assert __name__ in names
    assert not {"json", "pytest", "_pytest.python", "cloudpickle", "pluggy", "filelock", "pytest_clusterjobs"} & names
    assert not any(name.startswith("pytest_clusterjobs.") for name in names)
    assert b"dumps" in pack(json.dumps, [((), {})], "dumps").function


def test_editable_install_with_a_path_file_goes_by_name(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(edited_by_path=TRIPLE)
    module = project.load("edited_by_path")
    assert module in modules_by_value()
    monkeypatch.setattr(payload, "_fixed_places", lambda: frozenset({str(project.root)}))
    payload._travels.cache_clear()
    try:
        assert module not in modules_by_value()
    finally:
        payload._travels.cache_clear()


def test_editable_install_with_an_import_hook_goes_by_name(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        """What setuptools makes for an editable install."""

        @classmethod
        def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
            return object() if fullname == "edited_by_hook" else None

    Finder.__module__ = "__editable___edited_1_0_finder"
    project.write(edited_by_hook=TRIPLE, not_edited=TRIPLE)
    edited, other = project.load("edited_by_hook"), project.load("not_edited")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    try:
        assert edited not in modules_by_value()
        assert other in modules_by_value()
    finally:
        payload._travels.cache_clear()
        payload._is_editable.cache_clear()


def test_modules_are_registered_with_cloudpickle_only_while_we_pack() -> None:
    import cloudpickle

    before = set(cloudpickle.list_registry_pickle_by_value())
    pack(add, [((), {})], "add")
    with pytest.raises(PayloadError):
        pack(add, [((threading.Lock(),), {})], "add")
    assert set(cloudpickle.list_registry_pickle_by_value()) == before


def test_import_path_is_what_a_fresh_interpreter_would_not_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/no/such/directory", *sys.path])
    path = import_path()
    assert path[0] == str(tmp_path)
    assert "/no/such/directory" not in path
    assert not any("site-packages" in entry or entry.endswith("lib-dynload") for entry in path)


# ---------------------------------------------------------------- what cannot travel


def test_argument_is_named_by_its_parameter() -> None:
    def use(number: int, lock: object, *rest: object, key: object = None) -> None: ...

    lock = threading.Lock()
    for call, name in [
        (((1, lock), {}), "argument 'lock'"),
        (((1,), {"lock": lock}), "argument 'lock'"),
        (((1, 2, 3, lock), {}), "argument 'number 4'"),
        (((1, 2), {"key": lock}), "argument 'key'"),
        (((1, [{"deep": lock}]), {}), r"argument 'lock' \(list\)"),
    ]:
        with pytest.raises(PayloadError, match=rf"use: {name}.*cannot be sent to the node"):
            pack(use, [call], "use")


def test_argument_of_a_method_is_named_by_its_parameter() -> None:
    with pytest.raises(PayloadError, match="argument 'times'"):
        pack(Account(1).grown, [((threading.Lock(),), {})], "grown")


def test_argument_of_any_call_of_an_array_is_named() -> None:
    with pytest.raises(PayloadError, match="argument 'a'"):
        pack(add, [((1,), {}), ((threading.Lock(),), {})], "add")


def test_fixture_is_named_as_one() -> None:
    with pytest.raises(PayloadError, match=r"test_x: fixture 'db' \(lock\) cannot be sent to the node: TypeError"):
        pack(lambda db: None, [((), {"db": threading.Lock()})], "test_x", {"db": "fixture 'db'"})


def test_variable_that_a_function_uses_is_named() -> None:
    guard = threading.Lock()

    def use() -> None:
        guard.acquire()

    with pytest.raises(PayloadError, match=r"use: the variable 'guard' that it uses \(lock\).*inside the function"):
        pack(use, [((), {})], "use")


def test_global_that_a_function_uses_is_named(project: Project) -> None:
    project.write(test_user="import threading\nGUARD = threading.Lock()\ndef job(): return GUARD")
    with pytest.raises(PayloadError, match="the variable 'GUARD' that it uses"):
        pack(project.load("test_user").job, [((), {})], "job")


def test_object_of_a_method_is_named_by_its_type() -> None:
    account = Account(1)
    account.__dict__["guard"] = threading.Lock()
    with pytest.raises(PayloadError, match=r"grown: its object \(Account\) cannot be sent"):
        pack(account.grown, [((1,), {})], "grown")


def test_other_globals_of_the_module_need_not_travel(project: Project) -> None:
    project.write(test_user="import threading\nGUARD = threading.Lock()\ndef job(): return 5")
    assert project.run(project.load("test_user").job).value() == 5


def test_module_that_cannot_travel_whole_goes_by_name(project: Project, node: Node) -> None:
    project.write(
        has_lock="import threading\nGUARD = threading.Lock()\ndef locked():\n    with GUARD:\n        return 5",
        test_user="import has_lock\ndef job(): return has_lock.locked()",
    )
    packed = pack(project.load("test_user").job, [((), {})], "job")
    node.put_call(packed, sys_path=[str(project.root)])  # as on nodes that see our files
    assert node.run().value() == 5


# ---------------------------------------------------------------- a job in a job


@cluster(cores=2)
def nested(x: int) -> int:
    return x + 1


def calls_nested(x: int) -> int:
    return nested(x)


def test_decorated_function_called_in_a_job_is_refused_with_the_way_out(node: Node) -> None:
    with pytest.raises(RuntimeError, match=r"nested\(\) is decorated.*nested\.local\(\.\.\.\).*CLUSTERJOBS_NESTED"):
        node.call(calls_nested, 1).value()


def test_decorated_function_can_run_locally_in_a_job(node: Node) -> None:
    assert node.call(lambda: nested.local(1)).value() == 2


def test_nested_local_calls_it_in_the_job(node: Node) -> None:
    node.put_call(pack(calls_nested, [((1,), {})], "calls_nested"))
    assert node.run(env={"CLUSTERJOBS_NESTED": "local"}).value() == 2


def test_nested_submit_submits_a_job_of_its_own(node: Node) -> None:
    node.put_call(pack(calls_nested, [((1,), {})], "calls_nested"))
    root = str(Path(payload.__file__).parents[2])
    environment = {
        "CLUSTERJOBS_NESTED": "submit",
        "CLUSTERJOBS_WORKDIR": str(node.root / "inner"),
        "PYTHONPATH": root,
    }
    assert node.run(sys.executable, environment).value() == 2
