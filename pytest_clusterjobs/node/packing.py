"""What travels: loading the function and its arguments, packing the value or the exception for the way home.

Pickles know this module as ``_clusterjobs_packing``, at home and on the node, where the package need not be. A name
with a dot would not do, since unpickling imports the part before it. Standard library and shipped cloudpickle only, and
that only where nothing less will do: it costs more to import than all the rest of a small job.
"""

import builtins
import io
import marshal
import os
import sys
import types


def _load_pickle() -> None:
    """Load the pickle module in C. It loads functools for ``partial`` alone, which would cost every job 2 ms."""
    import _compat_pickle  # noqa: F401 - what else it loads must find the real functools
    import _functools  # type: ignore[import-not-found]
    import copyreg  # noqa: F401

    if "functools" not in sys.modules:
        stand_in = sys.modules["functools"] = types.ModuleType("functools")
        stand_in.partial = _functools.partial  # type: ignore[attr-defined]
        try:
            import _pickle  # noqa: F401
        finally:
            del sys.modules["functools"]


try:
    _load_pickle()
    import _pickle as pickle
except ImportError:  # another Python than CPython
    import pickle  # type: ignore[no-redef]

TYPE_CHECKING = False  # importing typing would cost every job 3 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Segments = Dict[str, bytes]

#: Exit code of the job when the function raised.
EXIT_EXCEPTION = 1

_PROTOCOL = 5
_MAX_CHAIN = 10
_MAX_FRAMES = 200

_PICKLED_AS = "_clusterjobs_packing"
_known = sys.modules.setdefault(_PICKLED_AS, sys.modules[__name__])


class LazyModule(types.ModuleType):
    """A module that is imported when something is asked of it. Assertion rewriting's helpers travel as this.

    These bring the arguments of pytest with them that say how much is told of a failing assert.
    """

    def __init__(self, name: str, arguments: "Tuple[str, ...]" = ()) -> None:
        super().__init__(name)
        self.__dict__["_arguments"] = arguments

    def __getattr__(self, attribute: str) -> "Any":
        if attribute.startswith("__") and attribute.endswith("__"):
            raise AttributeError(attribute)
        import importlib

        module = importlib.import_module(self.__name__)
        arguments = self.__dict__.pop("_arguments", None)
        if arguments is not None and self.__name__ == "_pytest.assertion.rewrite":
            _prepare_assertions(arguments)
        return getattr(module, attribute)

    def __reduce__(self) -> "Any":
        return LazyModule, (self.__name__, self.__dict__.get("_arguments", ()))


class NestedFunction:
    """A decorated function inside a job. A job that submits jobs is refused unless ``CLUSTERJOBS_NESTED`` allows it."""

    def __init__(self, function: "Callable[..., Any]", options: "Dict[str, Any]") -> None:
        self.local = function
        self.options_given = options
        self.__name__ = getattr(function, "__name__", "function")

    def __get__(self, instance: "Any", owner: "Any" = None) -> "Any":
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: "Any", **kwargs: "Any") -> "Any":
        __tracebackhide__ = True
        mode = os.environ.get("CLUSTERJOBS_NESTED", "error")
        if mode == "local":
            return self.local(*args, **kwargs)
        if mode == "submit":
            from pytest_clusterjobs import cluster

            return cluster(**self.options_given)(self.local)(*args, **kwargs)
        raise RuntimeError(
            "{0}() is decorated with @cluster and was called inside a job, which would submit another one. Call "
            "{0}.local(...) to run it here, or set CLUSTERJOBS_NESTED to 'local' or 'submit' in the job's env.".format(
                self.__name__
            )
        )


class ShippedFinder:
    """Finds the shipped cloudpickle before any other, when it is asked for."""

    def __init__(self, lib: str) -> None:
        self._lib = lib

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """Find cloudpickle, and nothing else."""
        if name != "cloudpickle":
            return None
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, [self._lib])


def use_cloudpickle_of(lib: str) -> None:
    """Have cloudpickle imported from the folder ``lib``, should it be needed."""
    if "cloudpickle" not in sys.modules:
        sys.meta_path.insert(0, ShippedFinder(lib))


def loads(data: bytes) -> "Any":
    """Unpickle what a process of this very job has pickled."""
    return pickle.loads(data)  # noqa: S301


def load_checked(part: "Dict[str, str]", directory: str) -> "Any":
    """Unpickle what the order holds, or a file named relative to the job's directory, when its checksum is right."""
    if "data" in part:
        from binascii import a2b_base64

        data = a2b_base64(part["data"])
    else:
        with open(os.path.join(directory, part["path"]), "rb") as file:
            data = file.read()
    if sha256(data) != part["sha256"]:
        raise ValueError(
            "{} is not what was sent: its checksum differs".format(part.get("path", "a part of the order"))
        )
    return pickle.loads(data)  # noqa: S301 - ours, and the checksum is right


def sha256(*parts: bytes) -> str:
    """Give the SHA-256 of data in hexadecimal, without loading OpenSSL where Python has its own."""
    try:
        from _sha2 import sha256 as make  # type: ignore[import-not-found]  # Python 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256 as make  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha256 as make
    digest = make()
    for part in parts:
        digest.update(part)
    return str(digest.hexdigest())


# ---------------------------------------------------------------- functions by value
# What cloudpickle makes of a function, in the same steps, so that a plain function needs no cloudpickle here.


def load_code(data: bytes) -> types.CodeType:
    """Give a code object back. The Python's minor version is that of the sender: it was compared before."""
    code = marshal.loads(data)  # noqa: S302 - ours, and the checksum was right
    if not isinstance(code, types.CodeType):
        raise TypeError("not a code object: {}".format(type(code).__name__))
    return code


def make_cell(*contents: "Any") -> "Any":
    """Make a cell of a closure, empty without an argument."""
    if not contents:
        return types.CellType()
    return types.CellType(contents[0])


def make_function(
    code: types.CodeType, names: "Dict[str, Any]", name: "Any", defaults: "Any", closure: "Any"
) -> types.FunctionType:
    """Make a function whose state is set afterwards, so that it may refer to itself."""
    names["__builtins__"] = builtins.__dict__
    return types.FunctionType(code, names, name, defaults, closure)


def set_function_state(function: types.FunctionType, state: "Tuple[Dict[str, Any], Dict[str, Any]]") -> None:
    """Give a function its globals, cells and attributes."""
    attributes, slots = state
    function.__dict__.update(attributes)
    slots.pop("_cloudpickle_submodules", None)
    function.__globals__.update(slots.pop("__globals__"))
    for cell, sent in zip(function.__closure__ or (), slots.pop("__closure__") or ()):  # noqa: B905 - Python 3.6
        try:
            cell.cell_contents = sent.cell_contents
        except ValueError:
            continue  # not assigned when it was sent
    for name, value in slots.items():
        setattr(function, name, value)


def make_module(name: str) -> types.ModuleType:
    """Make a module whose contents are set afterwards, so that they may refer to it."""
    return types.ModuleType(name)


def load_module(name: str) -> types.ModuleType:
    """Import a module and give it, not the package that it is in."""
    __import__(name)
    return sys.modules[name]


def reduced_exception(obj: "Any") -> "Optional[Tuple[Any, ...]]":
    """Tell how to pickle an exception whose class has an ``__init__`` of its own; None for all else.

    Python would call that again with ``args``, which are what it handed to ``super().__init__``: a text that would be
    put together twice, or not the arguments that it wants.
    """
    kind = type(obj)
    if not isinstance(obj, BaseException) or not isinstance(kind.__init__, types.FunctionType):
        return None
    own = (getattr(kind, name, None) for name in ("__reduce__", "__reduce_ex__", "__setstate__"))
    if any(isinstance(member, types.FunctionType) for member in own):
        return None
    import copyreg

    reduced = obj.__reduce__()  # type: Any
    state = dict(*reduced[2:])
    state.update((name, getattr(obj, name)) for name in copyreg._slotnames(kind) if hasattr(obj, name))  # type: ignore[attr-defined]
    return make_exception, (kind, reduced[1]), state


def make_exception(kind: "Any", args: "Tuple[Any, ...]") -> BaseException:
    """Make an exception as the built-in class would that its own is derived from."""
    heap_type = 1 << 9  # Py_TPFLAGS_HEAPTYPE (Include/object.h): set for what a class statement made
    base = next(base for base in kind.__mro__ if not base.__flags__ & heap_type)
    error = base.__new__(kind, *args)  # type: BaseException
    base.__init__(error, *args)
    return error


for _member in (
    LazyModule,
    NestedFunction,
    load_code,
    load_module,
    make_cell,
    make_exception,
    make_function,
    make_module,
    set_function_state,
):
    if _known is sys.modules[__name__]:
        _member.__module__ = _PICKLED_AS
    else:  # a job that submits jobs has the runner's first: pickles must find there what they were made with
        globals()[_member.__name__] = getattr(_known, _member.__name__)


# ---------------------------------------------------------------- the way home


def pickled_value(value: "Any", home: "List[str]") -> bytes:
    """Pickle a value for the way home, with cloudpickle unless it is made of plain parts only."""
    if _is_plain(value, 1000)[0]:
        return pickle.dumps(value, _PROTOCOL)
    return dumps(value, home)


def _is_plain(value: "Any", budget: int, depth: int = 50) -> "Tuple[bool, int]":
    """Tell whether at most ``budget`` parts make up the value, all of them of types that every Python has."""
    kind = type(value)
    if kind in (bool, int, float, complex, str, bytes, type(None)):
        return True, budget - 1
    if kind not in (list, tuple, dict, set, frozenset) or not depth:  # what holds itself has no end
        return False, budget
    parts = [*value.keys(), *value.values()] if kind is dict else value
    if len(parts) > budget:
        return False, budget
    for part in parts:
        is_plain, budget = _is_plain(part, budget, depth - 1)
        if not is_plain or budget <= 0:
            return False, budget
    return True, budget


def dumps(value: "Any", home: "List[str]", named: "Optional[Dict[str, Any]]" = None) -> bytes:
    """Pickle for the way home: classes and functions of the modules in ``home`` go by name, for they live there.

    Args:
        value: What is pickled.
        home: Names of modules that are not here, or are others here than at home.
        named: Filled with what went by name.
    """
    import pkgutil

    import cloudpickle

    modules = frozenset(home)

    class HomewardPickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: "Any") -> "Any":
            name = hidden_name(obj)
            if not name and isinstance(obj, (type, types.FunctionType)) and obj.__module__ in modules:
                name = "" if "<" in obj.__qualname__ else "{}:{}".format(obj.__module__, obj.__qualname__)
            if not name:
                return reduced_exception(obj) or super().reducer_override(obj)
            if named is not None:
                named[name] = obj
            return pkgutil.resolve_name, (name,)

    buffer = io.BytesIO()
    HomewardPickler(buffer, protocol=_PROTOCOL).dump(value)
    return buffer.getvalue()


def hidden_name(obj: "Any") -> str:
    """Give the real name of a class that claims to be a built-in, as pytest's outcomes do; "" for all others."""
    if isinstance(obj, type) and obj.__module__ == "builtins" and not hasattr(builtins, obj.__name__):
        name = str(obj.__name__)
        if getattr(sys.modules.get("_pytest.outcomes"), name, None) is obj:
            return "_pytest.outcomes:" + name
    return ""


def survives(data: bytes, named: "Dict[str, Any]", kind: type) -> bool:
    """Tell whether a pickle can be unpickled at home, without importing here what lives only there."""

    class Rehearsal(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> "Any":
            if (module, name) == ("pkgutil", "resolve_name"):
                return named.__getitem__
            return super().find_class(module, name)

    return type(Rehearsal(io.BytesIO(data)).load()) is kind


def pack_value(value: "Any", home: "List[str]") -> "Tuple[Dict[str, Any], Segments]":
    """Pack a value; one that cannot be pickled becomes a typed outcome with its text."""
    try:
        return {"outcome": "value", "exit_code": 0}, {"value": pickled_value(value, home)}
    except BaseException as error:
        text = "the function returned a {} that cannot be pickled: {}: {}".format(
            type(value).__name__, type(error).__name__, error
        )
        complain(text + "\n")
        header = {"outcome": "unpicklable", "text": text, "repr": short_repr(value), "exit_code": EXIT_EXCEPTION}
        return header, {}


def pack_exception(error: BaseException, home: "List[str]") -> "Tuple[Dict[str, Any], Segments]":
    """Pack an exception with its causes, each with its frames, its text, and its pickle where it survives one."""
    import traceback

    chain = []  # type: List[Dict[str, Any]]
    segments = {}  # type: Segments
    link = ""
    current = error  # type: Optional[BaseException]
    while current is not None and len(chain) < _MAX_CHAIN:
        pickled = pickle_exception(current, home)
        if pickled is not None:
            segments["exception{}".format(len(chain))] = pickled
        chain.append(describe_exception(current, link))
        if current.__cause__ is not None:
            link, current = "cause", current.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            link, current = "context", current.__context__
        else:
            current = None
    text = "".join(traceback.format_exception(type(error), error, without_own_frames(error.__traceback__)))
    if not is_pytest_outcome(error):
        complain(text)
    code = error.code if isinstance(error, SystemExit) else EXIT_EXCEPTION
    header = {"outcome": "exception", "chain": chain, "traceback": text}  # type: Dict[str, Any]
    header["exit_code"] = code if isinstance(code, int) else 0 if code is None else EXIT_EXCEPTION
    return header, segments


def complain(text: str) -> None:
    """Write to standard error, if the function has left us one."""
    try:
        sys.stderr.write(text)
    except Exception:
        return


def is_pytest_outcome(error: BaseException) -> bool:
    """Tell whether it is a skip, fail or xfail, which pytest reports in its own way."""
    return any(base.__module__ == "_pytest.outcomes" for base in type(error).__mro__)


def pickle_exception(error: BaseException, home: "List[str]") -> "Optional[bytes]":
    """Pickle an exception and try it, since many can be pickled and not unpickled; None when it does not survive."""
    named = {}  # type: Dict[str, Any]
    try:
        data = dumps(error, home, named)
        return data if survives(data, named, type(error)) else None
    except BaseException:
        return None


def describe_exception(error: BaseException, link: str) -> "Dict[str, Any]":
    """Describe one exception of a chain in JSON types."""
    frames = []  # type: List[List[Any]]
    tb = without_own_frames(error.__traceback__)
    while tb is not None and len(frames) < _MAX_FRAMES:
        code = tb.tb_frame.f_code
        if not hides_itself(tb.tb_frame):
            frames.append([code.co_filename, code.co_name, code.co_firstlineno, tb.tb_lineno, columns(tb)])
        tb = tb.tb_next
    return {
        "link": link,
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "message": str_of(error),
        "notes": [str(note) for note in getattr(error, "__notes__", [])],
        "frames": frames,
    }


def hides_itself(frame: "Any") -> bool:
    """Tell whether pytest would leave a frame out: at home its variables, which say so, are not known any more."""
    flag = frame.f_locals.get("__tracebackhide__", frame.f_globals.get("__tracebackhide__"))
    return flag is True


def columns(tb: "Any") -> "Optional[List[Optional[int]]]":
    """Give end line, column and end column of where a frame stands, if this Python knows (from 3.11 on)."""
    positions = getattr(tb.tb_frame.f_code, "co_positions", None)
    if positions is None:
        return None
    for index, (_, end_line, column, end_column) in enumerate(positions()):
        if index == tb.tb_lasti // 2:
            return [end_line, column, end_column]
    return None


def without_own_frames(tb: "Any") -> "Any":
    """Drop the runner's frames from the top of a traceback."""
    folder = os.path.dirname(__file__)
    while tb is not None and os.path.dirname(tb.tb_frame.f_code.co_filename) == folder:
        tb = tb.tb_next
    return tb


def pack_warnings(caught: "List[Any]", home: "List[str]") -> bytes:
    """Pack warnings as (message, category, filename, lineno); one that cannot be pickled goes as its text."""
    packed = []
    for warning in caught:
        try:
            dumps((warning.message, warning.category), home)
            packed.append((warning.message, warning.category, warning.filename, warning.lineno))
        except BaseException:
            packed.append((str(warning.message), UserWarning, warning.filename, warning.lineno))
    return dumps(packed, home)


def str_of(error: BaseException) -> str:
    """Give ``str(error)``, even of an exception whose ``__str__`` fails."""
    try:
        return str(error)
    except BaseException as failure:
        return "<str() failed: {}>".format(type(failure).__name__)


def short_repr(value: "Any") -> str:
    """Give a repr of at most 500 characters, even of an object whose ``__repr__`` fails."""
    try:
        return repr(value)[:500]
    except BaseException as failure:
        return "<repr() failed: {}>".format(type(failure).__name__)


def _prepare_assertions(arguments: "Tuple[str, ...]") -> None:
    """Make a failing assert here explain itself as it would at home: through pytest's own comparison hooks."""
    try:
        from _pytest import assertion
        from _pytest.config import get_config

        config = get_config()
        own = ["-p", "no:cacheprovider", "-p", "no:clusterjobs", "-c", os.devnull, "--rootdir", os.getcwd()]
        config.parse([*own, *arguments])
        if config.pluginmanager.get_plugin("terminalreporter") is None:  # pytest 8 asks it whether to colour
            from _pytest.terminal import TerminalReporter

            config.pluginmanager.register(TerminalReporter(config, io.StringIO()), "terminalreporter")
        item = types.SimpleNamespace(config=config, ihook=config.hook)
        hook = assertion.pytest_runtest_protocol(item)  # type: ignore[arg-type]
        next(hook)
        _kept.append(hook)
    except Exception:
        return  # plain explanations, then


_kept = []  # type: List[Any]
