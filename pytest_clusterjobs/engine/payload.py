"""Pack a function and its arguments for the node, and unpack what comes back.

Code that lives with the tests travels by value: the test module, its conftest chain, modules beside them, and whatever
else this process imported from a place that a fresh interpreter would not search. Installed packages go by name.
"""

from __future__ import annotations

import functools
import hashlib
import io
import marshal
import os
import pickle
import pkgutil
import site
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_clusterjobs.core.errors import PayloadError
from pytest_clusterjobs.node import packing

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


# Their helpers are needed by a failing assert only, and importing them costs more than most jobs.
_LAZY_MODULES = frozenset({"_pytest.assertion.rewrite"})
_explaining: tuple[str, ...] = ()
_OF_THE_IMPORT = frozenset({"__builtins__", "__cached__", "__loader__", "__spec__"})
_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Payload:
    """Pickled parts of a call."""

    #: The function.
    function: bytes
    #: For each call its ``(args, kwargs)``.
    arguments: tuple[bytes, ...]
    #: Names of the modules whose classes come back by name.
    home: tuple[str, ...]


def pack(
    function: Callable[..., Any],
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
    label: str,
    names: Mapping[str, str] | None = None,
) -> Payload:
    """Pickle a function and the arguments of its calls.

    Args:
        function: What the jobs call.
        calls: ``(args, kwargs)`` for each job.
        label: The function's name, for messages.
        names: How to call an argument in a message, e.g. ``{"db": "fixture 'db'"}``.

    Raises:
        PayloadError: Something cannot be pickled; the message names the argument, fixture or variable.
    """
    modules = modules_by_value()
    with _lock, _registered(modules):
        try:
            packed = _dumps(function)
        except Exception as error:
            raise PayloadError(_function_message(function, label, error)) from None
        arguments = []
        for args, kwargs in calls:
            try:
                arguments.append(_dumps((args, kwargs)))
            except Exception as error:
                raise PayloadError(_argument_message(function, args, kwargs, label, names or {}, error)) from None
    return Payload(packed, tuple(arguments), ("__main__", *(module.__name__ for module in modules)))


def explain_assertions(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Have failing asserts in jobs say as much as under a pytest with these arguments; gives those until now."""
    global _explaining  # one pytest is in charge of a process; one that runs inside it puts back what was
    before, _explaining = _explaining, arguments
    return before


def loads(data: bytes) -> Any:
    """Unpickle what a job packed. The caller has checked the checksum and whose file it is."""
    import cloudpickle  # noqa: F401 - pickles of dynamic classes refer to it

    return pickle.loads(data)  # noqa: S301


def shipped_library() -> str:
    """Give the folder of the package that nodes unpickle with; it is copied to them."""
    import cloudpickle

    return os.path.dirname(os.path.abspath(str(cloudpickle.__file__)))


def checksum(data: bytes) -> str:
    """Give the SHA-256 of data, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def import_path() -> list[str]:
    """Give the entries of ``sys.path`` that a fresh interpreter would not have, for nodes that see the same files."""
    fixed = _fixed_places()
    return [
        os.path.abspath(entry)
        for entry in sys.path
        if os.path.abspath(entry) not in fixed and os.path.isdir(entry or ".")
    ]


# ---------------------------------------------------------------- which modules travel


def modules_by_value() -> list[types.ModuleType]:
    """Give the loaded modules that a fresh interpreter on the node could not import."""
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType)
        and name != "__main__"
        and getattr(module, "__name__", None) == name
        and _travels(name, getattr(module, "__file__", None))
    ]


@functools.lru_cache(maxsize=16384)
def _travels(name: str, file: str | None) -> bool:
    if not file or not file.endswith(".py") or name.partition(".")[0] in _never_travel():
        return False
    path = os.path.abspath(file)
    if any(path.startswith(place + os.sep) for place in _library_places()):
        return False
    base = Path(path).parents[name.count(".") + (os.path.basename(path) == "__init__.py")]
    return str(base) not in _fixed_places() and not _is_editable(name.partition(".")[0])


@functools.lru_cache(maxsize=1)
def _never_travel() -> frozenset[str]:
    own = ("pytest_clusterjobs", "_clusterjobs_node", "_clusterjobs_local")  # the last two: in a job that submits jobs
    return frozenset({*own, "cloudpickle", "pytest", "_pytest", "xdist", "execnet", *sys.stdlib_module_names})


@functools.lru_cache(maxsize=1)
def _library_places() -> tuple[str, ...]:
    places = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    places.update(site.getsitepackages(), [site.getusersitepackages()])
    places.update(entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages"))
    return tuple(os.path.abspath(place) for place in places if place)


@functools.lru_cache(maxsize=1)
def _fixed_places() -> frozenset[str]:
    """Give the places that every fresh interpreter searches: libraries, and what their ``.pth`` files add."""
    places = {*_library_places(), *(os.path.join(place, "lib-dynload") for place in _library_places())}
    places.add(os.path.join(sys.base_prefix, "lib", f"python{sys.version_info[0]}{sys.version_info[1]}.zip"))
    for place in _library_places():
        for file in Path(place).glob("*.pth"):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.strip() and not line.startswith(("import ", "import\t", "#")):
                    places.add(os.path.abspath(os.path.join(place, line.strip())))
    return frozenset(places)


@functools.lru_cache(maxsize=1024)
def _is_editable(package: str) -> bool:
    """Tell whether an editable install's import hook finds the package; it finds it on the node too."""
    for finder in sys.meta_path:
        where = getattr(finder, "__module__", "") or ""
        if where.startswith("__editable__") or type(finder).__module__.startswith("__editable__"):
            find = getattr(finder, "find_spec", None)
            if find is not None and find(package, None) is not None:
                return True
    return False


@contextmanager
def _registered(modules: list[types.ModuleType]) -> Iterator[None]:
    import cloudpickle

    already = cloudpickle.list_registry_pickle_by_value()
    mine = [module for module in modules if module.__name__ not in already]
    for module in mine:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in mine:
            cloudpickle.unregister_pickle_by_value(module)


# ---------------------------------------------------------------- pickling and its failures


def _dumps(value: Any) -> bytes:
    try:
        return _outward_pickle(value, modules_by_name=False)
    except Exception:
        # A module that is used as an object (`import helpers`) travels with all it holds. If that fails, its name goes:
        # nodes that see our files can import it.
        try:
            return _outward_pickle(value, modules_by_name=True)
        except Exception:  # noqa: S110 - the first error says more
            pass
        raise


def _outward_pickle(value: Any, *, modules_by_name: bool) -> bytes:
    import cloudpickle

    by_value = cloudpickle.list_registry_pickle_by_value()

    class OutwardPickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, types.ModuleType):
                if obj.__name__ in _LAZY_MODULES:
                    return packing.LazyModule, (obj.__name__, _explaining)
                if _is_sent_whole(obj, by_value, modules_by_name=modules_by_name):
                    return packing.make_module, (obj.__name__,), _contents_of(obj)
                return packing.load_module, (obj.__name__,)
            if name := packing.hidden_name(obj):
                return pkgutil.resolve_name, (name,)
            if isinstance(obj, types.CodeType):
                return packing.load_code, (marshal.dumps(obj),)
            if isinstance(obj, types.CellType):
                return packing.make_cell, _contents(obj)
            return packing.reduced_exception(obj) or _lighter(super().reducer_override(obj))

    buffer = io.BytesIO()
    OutwardPickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _lighter(reduced: Any) -> Any:
    """Have the node make a function with the runner's own means, which come to the same, instead of cloudpickle's."""
    import cloudpickle.cloudpickle as library

    if isinstance(reduced, tuple) and len(reduced) == 6 and reduced[0] is getattr(library, "_make_function", None):
        return (packing.make_function, *reduced[1:5], packing.set_function_state)
    return reduced


def _is_sent_whole(module: types.ModuleType, by_value: Set[str], *, modules_by_name: bool) -> bool:
    """Tell whether a module that is used as an object travels with all it holds, or as its name."""
    name = module.__name__
    is_known = sys.modules.get(name) is module
    if modules_by_name and is_known:
        return False
    parts = name.split(".")
    if name not in sys.modules or any(".".join(parts[:count]) in by_value for count in range(1, len(parts) + 1)):
        return True
    return not is_known and _travels(name, getattr(module, "__file__", None))  # one of two conftest.py


def _contents_of(module: types.ModuleType) -> dict[str, Any]:
    """Give what makes up a module, without how it came to be here: pytest's loader holds the whole session."""
    return {name: value for name, value in vars(module).items() if name not in _OF_THE_IMPORT}


def _contents(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _can_travel(value: Any) -> Exception | None:
    try:
        _dumps(value)
    except Exception as error:
        return error
    return None


def _argument_message(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str,
    names: Mapping[str, str],
    error: Exception,
) -> str:
    code = getattr(function, "__code__", None)
    positional = code.co_varnames[: code.co_argcount] if code is not None else ()
    if isinstance(function, types.MethodType):
        positional = positional[1:]
    known = dict(zip(positional, args, strict=False))
    extra = {f"number {index + 1}": value for index, value in enumerate(args) if index >= len(positional)}
    for name, value in {**known, **extra, **kwargs}.items():
        failure = _can_travel(value)
        if failure is not None:
            what = names.get(name, f"argument {name!r}")
            return f"{label}: {what} ({type(value).__name__}) cannot be sent to the node: {_short(failure)}"
    return f"{label}: its arguments cannot be sent to the node: {_short(error)}"


def _function_message(function: Callable[..., Any], label: str, error: Exception) -> str:
    target = function.__func__ if isinstance(function, types.MethodType) else function
    if isinstance(function, types.MethodType) and (failure := _can_travel(function.__self__)) is not None:
        return f"{label}: its object ({type(function.__self__).__name__}) cannot be sent to the node: {_short(failure)}"
    for name, value in _variables(target):
        failure = _can_travel(value)
        if failure is not None:
            return (
                f"{label}: the variable {name!r} that it uses ({type(value).__name__}) cannot be sent to the node: "
                f"{_short(failure)}. Make it inside the function, or pass what it is made from."
            )
    return f"{label} cannot be sent to the node: {_short(error)}"


def _variables(function: Any) -> Iterator[tuple[str, Any]]:
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    for name in code.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
