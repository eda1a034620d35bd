"""Prove that a function is a per-item loop. What is not known to be harmless is refused with its reason."""

from __future__ import annotations

import ast
import builtins
import collections
import functools
import inspect
import re
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_SCALARS = (bool, int, float, complex, str, bytes, range, type(None), type(...), re.Pattern)
_CHANGERS = {"appendleft", "popitem", "popleft", "setdefault", *dir(list), *dir(set)} - {*dir(tuple), *dir(frozenset)}
# Functions that reach beyond their arguments or change them; modules of functions that change, keep or call theirs.
_BEYOND = (breakpoint, compile, delattr, dir, eval, exec, globals, id, input, iter, locals, next, setattr, super, vars)
_HOLDERS = ("_bisect", "_collections", "_functools", "_heapq", "_operator", "collections", "functools", "itertools")
_LOOKERS = (all, any, dict, frozenset, len, list, max, min, set, sorted, sum, tuple)  # keep only what they find
_CONSTANT = (ast.Constant, ast.Tuple, ast.UnaryOp, ast.unaryop, ast.expr_context)
_NEW = (ast.BinOp, ast.Compare, ast.Constant, ast.JoinedStr, ast.List, ast.ListComp)
_PARTS = (*_CONSTANT, *_NEW, ast.Assert, ast.BoolOp, ast.Dict, ast.Expr, ast.FormattedValue, ast.IfExp, ast.Name)
_ALL_PARTS = (*_PARTS, ast.Pass, ast.Set, ast.Slice, ast.Starred, ast.boolop, ast.cmpop, ast.keyword, ast.operator)
_LOCAL, _MISSING = object(), object()


class _Refused(Exception):
    """The function is not proven to be a per-item loop; the text is the reason."""


def why_not_split(function: Callable[..., object], /, *args: object, **kwargs: object) -> str | None:
    """Say why a function cannot be called on parts of its first argument instead; None when it surely can.

    None means: called on consecutive parts, the lists joined are equal to the list of one call, and the first part to
    raise raises what one call would. The function, as written or bound as a method, is not run. If the arguments of the
    call are given too, an iterator among them, which the first item would use up, is a reason.

    Not promised: functions it calls, operators, and methods of items are trusted to keep nothing between items, in
    memory or in files, and to hand out nothing shared; items to share no state; other arguments to hold no iterators.
    """
    plain = function.__func__ if isinstance(function, types.MethodType) else function
    try:
        if not isinstance(plain, types.FunctionType):
            raise _Refused(f"it is a {type(plain).__name__}, not a function written in Python")
        names = plain.__code__.co_varnames[: plain.__code__.co_argcount][isinstance(function, types.MethodType) :]
        if not names or (kwargs and not args and next(iter(kwargs)) != names[0]):
            raise _Refused("its first parameter is not the first argument given")
        if not all(map(_is_fixed, (*(plain.__defaults__ or ()), *(plain.__kwdefaults__ or {}).values()))):
            raise _Refused("the default of a parameter can be changed, and its calls share it")
        if any(hasattr(type(v), "__next__") or hasattr(type(v), "__missing__") for v in (*args, *kwargs.values())):
            raise _Refused("an argument is an iterator or a defaultdict, which reading changes")
        _Loop(plain, names[0])
    except (_Refused, ImportError, RecursionError) as refusal:
        return str(refusal)
    return None


def _refusal(node: ast.AST, why: str) -> _Refused:
    return _Refused(f"line {getattr(node, 'lineno', '?')} {why.format(ast.unparse(node).strip().splitlines()[0])}")


def _is_function(value: object) -> bool:
    """Tell whether it is a function or class, which is trusted, and no method bound to an object, which has state."""
    if re.search(r"\brandom\b|\.rand", f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', '')}"):
        return False  # random numbers, in Python, NumPy or PyTorch, come in one sequence for all items
    if isinstance(value, (types.BuiltinFunctionType, types.MethodType)):
        return isinstance(value.__self__, (types.ModuleType, type, type(None)))
    of_numpy = type(value).__name__ in ("ufunc", "_ArrayFunctionDispatcher")
    return isinstance(value, (types.FunctionType, type)) or of_numpy or getattr(value, "__objclass__", None) is str


def _is_fixed(value: Any, *more: type) -> bool:
    """Tell whether a value cannot be changed; with ``more`` kinds of containers, not by looking into it."""
    if type(value) in (tuple, frozenset, *more):
        return all(_is_fixed(part, *more) for part in (value.values() if type(value) is dict else value))
    return type(value) in _SCALARS or _is_function(value)


@functools.lru_cache(maxsize=64)
def _source_of(code: types.CodeType) -> ast.FunctionDef:
    """Give a function's syntax tree, proven to be what runs: files are edited while they run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # given when the file was imported
            tree = ast.parse("".join(inspect.findsource(code)[0]))
            codes: list[Any] = [compile(tree, "", "exec", dont_inherit=True)]
    except (OSError, SyntaxError, ValueError):
        raise _Refused("its source cannot be read") from None
    for other in codes:  # which grows as it goes
        codes += [const for const in other.co_consts if isinstance(const, types.CodeType)]
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == code.co_name]
    for node in nodes if code in codes else ():
        if code.co_firstlineno in (node.lineno, *(part.lineno for part in node.decorator_list)):
            return node
    raise _Refused("it is a lambda or a coroutine, or its file was edited since, or pytest rewrote an assert in it")


def _bindings(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Give the names that a node sets, each with what it is set to, or to a part of."""
    target, source = ast.AST(), ast.AST()
    match node:
        case ast.Assign([ast.Name() as target], source) | ast.AnnAssign(target, _, ast.expr() as source):
            pass
        case ast.Assign([target], value) | ast.For(target, value) | ast.comprehension(target, value):
            source = ast.Starred(value)
        case ast.AugAssign(target, operator, value):
            source = ast.BinOp(target, operator, value)
    yield from ((n.id, source) for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


class _Loop:
    """The checks of one function, and what they know of its names. Refuses where it is made."""

    def __init__(self, plain: types.FunctionType, xs: str) -> None:
        tree, cells = _source_of(plain.__code__), zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True)
        closure = {name: _MISSING if cell == types.CellType() else cell.cell_contents for name, cell in cells}
        self.outside = collections.ChainMap[str, Any](closure, plain.__globals__, vars(builtins))
        self.local = {node.arg for node in ast.iter_child_nodes(tree.args) if isinstance(node, ast.arg)}
        self.older, self.xs, self.acc = self.local - {xs}, xs, ""
        loop, self.source = self._find(tree.body)
        pairs = [pair for node in ast.walk(loop) for pair in _bindings(node)]
        self.assigned = frozenset(name for name, _ in pairs)
        self.local |= self.assigned
        while more := {name for name, value in pairs if self._is_older(value)} - self.older:
            self.older |= more  # names of what may be, or hold, something that was there before the item
        self.new = self.assigned.difference(name for name, value in pairs if not isinstance(value, _NEW))
        self._check(loop, frozenset())

    def _find(self, body: list[ast.stmt]) -> tuple[ast.AST, ast.expr]:
        """Find the loop and what it is over. Before it may be constants, after it only the return of its list."""
        match body:
            case [*before, ast.For(_, source) as loop, ast.Return(ast.Name(name))]:
                self.acc = name
            case [*before, ast.Assign([ast.Name(a)], ast.ListComp() as loop), ast.Return(ast.Name(b))] if a == b:
                source = loop.generators[0].iter
            case [*before, ast.Return(ast.ListComp() as loop)]:
                source = loop.generators[0].iter
            case _:
                raise _Refused("it returns something else than the list that its one loop appends to")
        if not isinstance(source, ast.Name) or source.id != self.xs:
            raise _refusal(source, f"loops over {{!r}} instead of its first parameter {self.xs!r}")
        if self.acc not in ["", *map(self._prepare, before)]:
            raise _Refused("it returns something else than a list that it made before the loop")
        return loop, source

    def _prepare(self, node: ast.stmt) -> str:
        match node:
            case ast.Expr(ast.Constant()):
                return ""
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                self.local.add(name)
                is_list = ast.unparse(value) in ("[]", "list()") and self._value(ast.Name("list")) is list
                is_constant = all(isinstance(part, _CONSTANT) for part in ast.walk(value))
                if name != self.xs and (is_list if name == self.acc else is_constant):
                    return name
        raise _refusal(node, "has {!r} before the loop, which is no constant")

    def _value(self, node: ast.AST) -> Any:
        """Give what a name from outside the function stands for, or an attribute of such a module or class."""
        name = str(getattr(node, "attr", getattr(node, "id", "")))
        if name.startswith("__"):
            raise _refusal(node, "uses {!r}, which reaches behind things")
        if isinstance(node, ast.Attribute):
            base = self._value(node.value)
            return getattr(base, name, _MISSING) if isinstance(base, (types.ModuleType, type)) else _LOCAL
        return _LOCAL if not name or name in self.local else self.outside.get(name, _MISSING)

    def _is_older(self, node: ast.AST) -> bool:
        """Tell whether a value may be, or hold, something that was there before the item."""
        match node:
            case ast.Name(name) if name in self.local:
                return name in self.older
            case ast.Name() | ast.Attribute() if (value := self._value(node)) is not _LOCAL:
                return not _is_fixed(value)
            case ast.Subscript(base):
                return self._is_older(base)
            case ast.Compare() | ast.JoinedStr():
                return False
        is_trusted = isinstance(node, ast.Call) and isinstance(self._value(node.func), types.FunctionType)
        return not is_trusted and any(map(self._is_older, ast.iter_child_nodes(node)))

    def _all(self, nodes: Iterable[ast.AST], known: frozenset[str]) -> frozenset[str]:
        return functools.reduce(lambda so_far, node: self._check(node, so_far), nodes, known)

    def _check(self, node: ast.AST, known: frozenset[str], looking: bool = False) -> frozenset[str]:
        """Check a part of the loop, and give the names surely set after it; ``looking`` if it is only looked into."""
        match node:
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()) if (value := self._value(node)) is not _LOCAL:
                if not _is_fixed(value, *((dict, list, set) if looking else ())) or value in _BEYOND:
                    raise _refusal(node, "uses {!r}, no constant and no plain function: items may share it")
            case ast.Name(self.xs | self.acc) if node is not self.source:
                raise _refusal(node, "uses {!r}, which only the loop itself may")
            case ast.Name(name, ast.Store()):
                return known | {name}
            case ast.Name(name) if name in self.assigned - known:
                raise _refusal(node, "reads {!r}, which an earlier item may have set")
            case ast.Attribute(base, attr, ast.Load()) if attr not in _CHANGERS and not _is_function(self._value(base)):
                self._check(base, known)
            case ast.Subscript(base, index, ast.Load()):
                self._all([index], self._check(base, known, True))
            case ast.Compare(left, [ast.In() | ast.NotIn()], [right]):
                self._check(right, self._check(left, known), True)
            case ast.Call():
                self._call(node, known)
            case ast.GeneratorExp() if not looking:
                raise _refusal(node, "keeps {!r} to run it later")
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._all(ast.iter_child_nodes(node), self._all(node.generators, known))
            case ast.comprehension(target, source, tests):
                return self._all([target, *tests], self._check(source, known, True))
            case ast.Continue() | ast.Raise():
                return self._all(ast.iter_child_nodes(node), known) | self.assigned  # what comes next is never reached
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(self.acc), "append"), [value], [])):
                self._check(value, known)
            case ast.Expr(ast.Call() as call):
                self._call(call, known, True)
            case ast.Assign([target], value) | ast.AnnAssign(target, _, ast.expr() as value):
                return self._check(target, self._check(value, known))
            case ast.AugAssign(ast.Name(name) as target, _, value) if name in self.new:
                self._all([ast.copy_location(ast.Name(name, ast.Load()), target), value], known)
            case ast.If(test, yes, no):
                return self._all([test, *yes], known) & self._all(no, known)
            case ast.For(target, source, inner, []):
                self._all([target, *inner], self._check(source, known, True))
            case ast.Try(body, handlers, [], []):
                return self._all(body, known).intersection(*(self._check(handler, known) for handler in handlers))
            case ast.ExceptHandler(kind, None, body):
                return self._all([kind or ast.Pass(), *body], known)
            case _ if isinstance(node, _ALL_PARTS):
                return self._all(ast.iter_child_nodes(node), known)
            case _:
                raise _refusal(node, "has {!r}, which may tie items together")
        return known

    def _call(self, node: ast.Call, known: frozenset[str], is_alone: bool = False) -> None:
        """Check a call of a function known by its name, or of a method of what came with the item."""
        func, given, value = node.func, [*node.args, *node.keywords], self._value(node.func)
        if value is _LOCAL and (not isinstance(func, ast.Attribute) or is_alone or self._is_older(func.value)):
            raise _refusal(node, "calls {!r}, which may change what items share")
        self._check(func, known)
        holds = value in (filter, map) or getattr(value, "__module__", "") in _HOLDERS
        holds |= any(part.arg in ("file", "key", "out") for part in node.keywords)
        holds |= is_alone and getattr(value, "__name__", "") not in ("print", "sleep")
        if holds and any(map(self._is_older, given)):
            raise _refusal(node, "gives away in {!r} what items share")
        looking = (value in _LOOKERS and len(node.args) == 1) or getattr(func, "attr", "") == "join"
        for part in given:
            self._check(part, known, looking)
