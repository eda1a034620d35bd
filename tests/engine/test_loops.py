"""Which functions `why_not_split` lets be split, and that splitting those, and only those, changes nothing."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import linecache
import os
import pickle
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from pytest_clusterjobs.engine.loops import why_not_split

Function = Callable[..., Any]

PRELUDE = """
import collections, functools, heapq, itertools, math, operator, os, random, re, sys, time
from random import randint
SEEN, TABLE, ROWS, STOP = set(), {1: "one", 2: "two"}, [[1, 2], [3]], frozenset({2})
LIMIT, NAMES, WORD, CALLS = 3, ("a", "b"), re.compile("[a-z]+"), itertools.count()
GROWING, NUMBERS, LOG, ADD = collections.defaultdict(CALLS.__next__), iter(range(100)), [], SEEN.add
def double(x):
    return 2 * x
def parse(x):
    if x < 0:
        raise ValueError(x)
    return x
def remember(x):
    return x
class Config:
    factor, last = 3, 0
class Counter:
    def __init__(self): self.n = 0
    def step(self): self.n += 1; return self.n
    def __call__(self, x): return self.step()
COUNTER = Counter()
@functools.lru_cache
def cached(x):
    return x
"""


class Define(Protocol):
    def __call__(self, source: str) -> Function: ...


@pytest.fixture
def define(tmp_path: Path) -> Define:
    """Give a function that turns the source of ``f`` into ``f``, in a module that has a file."""

    def make(source: str) -> Function:
        path = tmp_path / "loops_under_test.py"
        path.write_text(PRELUDE + textwrap.dedent(source), encoding="utf-8")
        linecache.checkcache(str(path))
        spec = importlib.util.spec_from_file_location("loops_under_test", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function: Function = module.f
        return function

    return make


def in_child(call: Callable[[], Any]) -> Any:
    """Call something in a forked process, as the node's runner does; give its value or what it raised, as a text."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: the child only computes
        child = os.fork()
    if child == 0:
        try:
            result = ("value", call())
        except BaseException as error:
            result = ("raised", repr(error))
        os.write(writer, pickle.dumps(result))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(data)


def split(function: Function, items: list[Any], rest: tuple[Any, ...], splits: int) -> Any:
    """Do what the runner's ``run_split`` does: consecutive parts, each in a process; the first to raise counts."""
    splits = max(1, min(splits, len(items)))
    bounds = [len(items) * part // splits for part in range(splits + 1)]
    parts = [
        in_child(functools.partial(function, items[start:end], *rest)) for start, end in itertools.pairwise(bounds)
    ]
    failed = [part for part in parts if part[0] == "raised"]
    return failed[0] if failed else ("value", [item for _, part in parts for item in part])


NUMBERS = [3, 1, 2, 1, 5]
WORDS = ["b a", "a", "", "c d b"]
LISTS = [[1, 2], [], [3], [2, 2]]

#: Name, source, first argument, other arguments.
ACCEPTED: list[tuple[str, str, list[Any], tuple[Any, ...]]] = [
    (
        "append",
        """
        def f(xs):
            out = []
            for x in xs:
                out.append(double(x))
            return out
        """,
        NUMBERS,
        (),
    ),
    (
        "docstring, list(), annotation",
        '''
        def f(xs: list[int]) -> list[int]:
            """Double."""
            out: list[int] = list()
            for x in xs:
                "a text alone"
                out.append(x)
            return out
        ''',
        NUMBERS,
        (),
    ),
    (
        "several appends, if and else",
        """
        def f(xs):
            out = []
            for x in xs:
                if x > 2:
                    out.append(x)
                    out.append(-x)
                elif x == 1:
                    pass
                else:
                    out.append(0)
            return out
        """,
        NUMBERS,
        (),
    ),
    (
        "continue, and a name set on every other way",
        """
        def f(xs):
            out = []
            for x in xs:
                if x == 1:
                    continue
                elif x == 2:
                    y = "two"
                else:
                    y = str(x)
                out.append(y)
            return out
        """,
        NUMBERS,
        (),
    ),
    (
        "constants before the loop",
        """
        def f(xs):
            offset = -1
            names = ("a", 2)
            return [(x + offset, names[0]) for x in xs]
        """,
        NUMBERS,
        (),
    ),
    (
        "comprehension with conditions",
        "def f(xs): return [double(x) for x in xs if x > 1 if x not in STOP]",
        NUMBERS,
        (),
    ),
    (
        "comprehension by name, with an inner loop",
        """
        def f(xs):
            result = [y for x in xs for y in x if y != 3]
            return result
        """,
        LISTS,
        (),
    ),
    ("destructuring", "def f(xs): return [a - b + sum(c) for a, (b, *c) in xs]", [(1, (2, 3, 4)), (5, (6,))], ()),
    ("free table", "def f(xs): return [TABLE[x] if x in TABLE else 'many' for x in xs]", NUMBERS, ()),
    ("free table gone through", "def f(xs): return [[x * y for row in ROWS for y in row] for x in xs]", NUMBERS, ()),
    ("free constants", "def f(xs): return [x + LIMIT + Config.factor + math.pi for x in xs if NAMES]", NUMBERS, ()),
    ("pattern", "def f(xs): return [WORD.findall(x) for x in xs]", WORDS, ()),
    ("parameter", "def f(xs, factor, *, power=2): return [factor * x**power for x in xs]", NUMBERS, (3,)),
    ("parameter given on", "def f(xs, digits): return [round(x / 7, digits) for x in xs]", NUMBERS, (2,)),
    ("parameter as table", "def f(xs, names): return [names[x % 2] for x in xs if x in names]", NUMBERS, ([1, 2],)),
    (
        "parameter in an inner loop",
        """
        def f(xs, ys):
            out = []
            for x in xs:
                for y in ys:
                    if x != y:
                        out.append((x, y))
            return out
        """,
        NUMBERS,
        ([1, 2],),
    ),
    (
        "a sum of its own for each item",
        """
        def f(xs):
            out = []
            for x in xs:
                total = 0
                text = ""
                for y in x:
                    total += y
                    text += str(y)
                out.append((total, text))
            return out
        """,
        LISTS,
        (),
    ),
    (
        "a name set anew before it is read",
        """
        def f(xs):
            out = []
            last = None
            for x in xs:
                last = x + 1
                x = double(last)
                out.append(x - last)
            return out
        """,
        NUMBERS,
        (),
    ),
    (
        "try and except",
        """
        def f(xs):
            out = []
            for x in xs:
                try:
                    y = parse(x)
                except ValueError:
                    continue
                except (TypeError, KeyError):
                    y = None
                out.append(y)
            return out
        """,
        [1, -2, "a", 3],
        (),
    ),
    (
        "what raises",
        """
        def f(xs):
            out = []
            for x in xs:
                if x == 1:
                    raise KeyError(x)
                out.append(parse(x))
            return out
        """,
        [3, 2, -1, 1, -2],
        (),
    ),
    ("what raises by an operator", "def f(xs): return [10 / x for x in xs]", [1, 2, "a", 0, 5], ()),
    (
        "what asserts",
        "def f(xs):\n out = []\n for x in xs:\n  assert x < 4, x\n  out.append(x)\n return out",
        NUMBERS,
        (),
    ),
    (
        "effects that say nothing to the next item",
        """
        def f(xs, delay):
            out = []
            for x in xs:
                time.sleep(delay)
                print(end="")
                remember(x)
                out.append(x)
            return out
        """,
        NUMBERS,
        (0,),
    ),
    ("methods of items", "def f(xs): return [x.upper().split() + sorted(x.split()) for x in xs]", WORDS, ()),
    ("method of a constant", "def f(xs): return ['-'.join(y for y in x if y != ' ') for x in xs]", WORDS, ()),
    ("generator used at once", "def f(xs, k): return [sum(k * y for y in x) + len(x) for x in xs]", LISTS, (2,)),
    ("inner comprehensions", "def f(xs): return [{y: [z for z in x] for y in {*x}} for x in xs]", LISTS, ()),
    ("map of a function", "def f(xs): return [list(map(double, x)) + sorted(x, key=double) for x in xs]", LISTS, ()),
    ("format", "def f(xs, width): return [f'{x:>{width}}' for x in xs]", NUMBERS, (4,)),
    ("closure", "def make(k):\n    def f(xs): return [k * x for x in xs]\n    return f\nf = make(3)", NUMBERS, ()),
    (
        "part of a parameter",
        "def f(xs, p): return [(y, z) for x in xs for y in [p[0]] for z in [x < p[1]]]",
        NUMBERS,
        ([1, 2],),
    ),
    ("text of a parameter", "def f(xs, p): return [f'{x}{p}'.upper() for x in xs]", NUMBERS, ("a",)),
    ("recursion", "def f(xs): return [f(x) if isinstance(x, list) else x for x in xs]", [1, [2, [3]], 4], ()),
    ("method", "class C:\n    k = 2\n    def f(self, xs): return [self.k * x for x in xs]\nf = C().f", NUMBERS, ()),
    (
        "class method",
        "class C:\n    k = 2\n    @classmethod\n    def f(cls, xs): return [cls.k * x for x in xs]\nf = C.f",
        NUMBERS,
        (),
    ),
    (
        "decorated",
        "def deco(*_): return lambda f: f\n@deco(1)\n@deco(\n    2)\ndef f(xs): return [x for x in xs]",
        NUMBERS,
        (),
    ),
]

LOOP = """
def f(xs{parameters}):
    out = []
    for x in xs:
        {body}
    return out
"""
WRAPPED = """
def wrap(g):
    @functools.wraps(g)
    def wrapper({parameters}):
        return g({parameters})[:1]
    return wrapper
@wrap
def f(xs):
    return [x for x in xs]
"""


def loop(body: str, parameters: str = "") -> str:
    return LOOP.format(body=body.replace("\n", "\n        "), parameters=parameters)


#: Source and a fragment of the reason.
REFUSED: list[tuple[str, str]] = [
    # It is not that shape.
    ("f = lambda xs: [x for x in xs]", "it is a lambda"),
    ("def f(xs):\n for x in xs: yield x", "returns something else"),
    ("def f(xs):\n out = []\n for x in xs: out.append((yield x))\n return out", "has '(yield x)'"),
    ("async def f(xs): return [x for x in xs]", "a coroutine"),
    ("f = len", "it is a builtin_function_or_method"),
    ("f = functools.partial(double)", "it is a partial"),
    ("f = COUNTER", "it is a Counter"),
    ("def f(*xs): return [x for x in xs]", "first parameter is not the first argument"),
    ("def f(*, xs): return [x for x in xs]", "first parameter is not the first argument"),
    ("def f(): return []", "first parameter is not the first argument"),
    ("class C:\n def f(self, xs): return [x for x in xs]\nf = C.f", "instead of its first parameter 'self'"),
    ("def f(xs): return len(xs)", "returns something else"),
    ("def f(xs): return {x for x in xs}", "returns something else"),
    ("def f(xs): return sorted([x for x in xs])", "returns something else"),
    ("def f(xs):\n result = [x for x in xs]\n result.sort()\n return result", "returns something else"),
    ("def f(xs):\n a = b = [x for x in xs]\n return a", "returns something else"),
    ("def f(xs):\n out = []\n for x in xs: out.append(x)\n return out, 1", "returns something else"),
    ("def f(xs):\n out = []\n for x in xs: out.append(x)\n return xs", "'out = []' before the loop"),
    ("def f(xs, out):\n for x in xs: out.append(x)\n return out", "returns something else than a list that it made"),
    ("def f(xs):\n out = LOG\n for x in xs: out.append(x)\n return out", "'out = LOG' before the loop"),
    ("def f(xs):\n out = [0]\n for x in xs: out.append(x)\n return out", "'out = [0]' before the loop"),
    ("def f(xs):\n out = []\n out = 5\n for x in xs: out.append(x)\n return out", "'out = 5' before the loop"),
    ("def f(xs, list):\n out = list()\n for x in xs: out.append(x)\n return out", "'out = list()' before the loop"),
    ("def f(xs):\n n = len(xs)\n return [x / n for x in xs]", "'n = len(xs)' before the loop"),
    ("def f(xs):\n seen = set()\n return [x for x in xs if x not in seen]", "'seen = set()' before the loop"),
    ("def f(xs):\n xs = (1, 2)\n return [x for x in xs]", "'xs = (1, 2)' before the loop"),
    ("def f(xs):\n global LIMIT\n return [x for x in xs]", "'global LIMIT' before the loop"),
    ("def f(xs):\n out = []\n for x in xs: out.append(x)\n for x in xs: out.append(x)\n return out", "before the loop"),
    ("def f(xs):\n out = []\n for x in xs: out.append(x)\n else: out.append(0)\n return out", "has 'for x in xs:'"),
    ("def f(xs): return [x for x in reversed(xs)]", "loops over 'reversed(xs)'"),
    ("def f(xs): return [(i, x) for i, x in enumerate(xs)]", "loops over 'enumerate(xs)'"),
    ("def f(xs, ys): return [x for x, y in zip(xs, ys)]", "loops over 'zip(xs, ys)'"),
    ("def f(xs, ys): return [x * y for y in ys for x in xs]", "loops over 'ys'"),
    ("def f(xs): return [x for x in xs if x == max(xs)]", "uses 'xs', which only the loop"),
    (loop("out.append(len(xs))"), "uses 'xs', which only the loop"),
    (loop("for xs in x: out.append(xs)"), "reads 'xs', which an earlier item may have set"),
    # An item hears of those before it through a name.
    (loop("out.append(len(out))"), "line 29 uses 'out', which only the loop"),
    (loop("if x not in out: out.append(x)"), "uses 'out', which only the loop"),
    (loop("out.extend([x])"), "calls 'out.extend([x])'"),
    (loop("out += [x]"), "uses 'out', which only the loop"),
    (loop("out = [x]"), "uses 'out', which only the loop"),
    (
        "def f(xs):\n out = []\n total = 0\n for x in xs:\n  total += x\n  out.append(total)\n return out",
        "reads 'total', which an",
    ),
    (
        "def f(xs):\n out = []\n last = 0\n for x in xs:\n  out.append(x - last)\n  last = x\n return out",
        "reads 'last', which an",
    ),
    (loop("if x > 1: y = x\nout.append(y)"), "reads 'y', which an earlier item may have set"),
    (loop("for z in [x]: y = z\nout.append(y)"), "reads 'y', which an earlier item may have set"),
    (
        loop("try: y = parse(x)\nexcept ValueError: pass\nout.append(y)"),
        "reads 'y', which an earlier item may have set",
    ),
    (loop("out.append(k)\nk = x", ", k"), "reads 'k', which an earlier item may have set"),
    ("def f(xs): return [y for x in xs if x == 3 or y for y in [x]]", "reads 'y', which an earlier item may have set"),
    (loop("if (n := x) > 1: out.append(n)"), "has '(n := x)'"),
    # It leaves the loop, or does what is not looked into.
    (loop("if x == 1: break\nout.append(x)"), "has 'break'"),
    (loop("if x == 1: return out\nout.append(x)"), "has 'return out'"),
    (loop("del x"), "has 'del x'"),
    (loop("continue\nglobal LIMIT"), "has 'global LIMIT'"),
    (loop("while x: x -= 1"), "has 'while x:'"),
    (loop("try: out.append(parse(x))\nfinally: pass"), "has 'try:'"),
    (
        loop("try: y = parse(x)\nexcept ValueError as error: y = error\nout.append(y)"),
        "has 'except ValueError as error:'",
    ),
    (loop("with open(x) as file: out.append(file.read())"), "has 'with open(x) as file:'"),
    (loop("import math"), "has 'import math'"),
    (loop("def g(): return x\nout.append(g)"), "has 'def g():'"),
    (loop("out.append(lambda: x)"), "has 'lambda"),
    ("def f(xs): return [lambda: x for x in xs]", "has 'lambda"),
    ("def f(xs): return [(x for _ in range(2)) for x in xs]", "to run it later"),
    ("def f(xs): return [map(double, (x for _ in range(2))) for x in xs]", "to run it later"),
    # It changes what was there before the item.
    (loop("SEEN.add(x)\nout.append(x)"), "calls 'SEEN.add(x)'"),
    (loop("p.append(x)\nout.append(x)", ", p"), "calls 'p.append(x)'"),
    (loop("out.append(p.get(x))", ", p"), "calls 'p.get(x)'"),
    (loop("q = p\nout.append(q.step())", ", p"), "calls 'q.step()'"),
    (loop("for q in [p]: out.append(q.step())", ", p"), "calls 'q.step()'"),
    (loop("for i, q in enumerate(p): out.append(q.step())", ", p"), "calls 'q.step()'"),
    (loop("p[x] = 1\nout.append(x)", ", p"), "has 'p[x]'"),
    (loop("p.last = x\nout.append(x)", ", p"), "has 'p.last'"),
    (loop("x[0] = 1\nout.append(x)"), "has 'x[0]'"),
    (loop("Config.last = x\nout.append(x)"), "has 'Config.last'"),
    (loop("out.append(Config.last)\nfor Config.last in [x]: pass"), "has 'Config.last'"),
    (loop("p[0] += x\nout.append(x)", ", p"), "has 'p[0] += x'"),
    (loop("q = p\nq += [x]\nout.append(len(q))", ", p"), "has 'q += [x]'"),
    (loop("x += [1]\nout.append(len(x))"), "has 'x += [1]'"),
    (loop("q = p[x]\nout.append(q.step())", ", p"), "calls 'q.step()'"),
    (loop("print(x, file=p)\nout.append(len(p))", ", p"), "gives away in 'print(x, file=p)'"),
    (loop("out.append(x.pop())"), "has 'x.pop'"),
    (loop("x.sort()\nout.append(x)"), "calls 'x.sort()'"),
    (loop("out.append((list.append(p, x), len(p)))", ", p"), "uses 'list.append'"),
    (loop("out.append(heapq.heappushpop(p, x))", ", p"), "gives away in 'heapq.heappushpop(p, x)'"),
    (loop("remember(p)\nout.append(x)", ", p"), "gives away in 'remember(p)'"),
    (loop("out.append(list(map(p.step, x)))", ", p"), "gives away in 'map(p.step, x)'"),
    (loop("out.append(sorted(x, key=p))", ", p"), "gives away in 'sorted(x, key=p)'"),
    (loop("out.append(functools.reduce(p, x))", ", p"), "gives away in 'functools.reduce(p, x)'"),
    ("def f(xs): return [SEEN.add(x) or len(SEEN) for x in xs]", "calls 'SEEN.add(x)'"),
    ("def f(xs): return [x for x in xs if x not in SEEN and not ADD(x)]", "uses 'ADD'"),
    ("def f(xs): return [remember(LOG) for x in xs]", "uses 'LOG'"),
    ("def f(xs): return [GROWING[x] for x in xs]", "uses 'GROWING'"),
    ("def f(xs): return [y for x in xs for y in NUMBERS]", "uses 'NUMBERS'"),
    ("def f(xs): return [next(NUMBERS) for x in xs]", "uses 'next'"),
    ("def f(xs, it): return [next(it) for x in xs]", "uses 'next'"),
    ("def f(xs): return [CALLS.__next__() for x in xs]", "reaches behind things"),
    ("def f(xs): return [x.__dict__ for x in xs]", "reaches behind things"),
    ("def f(xs): return [COUNTER(x) for x in xs]", "uses 'COUNTER'"),
    ("def f(xs): return [COUNTER.step() for x in xs]", "calls 'COUNTER.step()'"),
    ("def f(xs): return [cached(x) for x in xs]", "uses 'cached'"),
    ("def f(xs): return [double.calls for x in xs]", "has 'double.calls'"),
    ("def f(xs, g): return [g(x) for x in xs]", "calls 'g(x)'"),
    ("def f(xs): return [x() for x in xs]", "calls 'x()'"),
    ("def f(xs): return [getattr(SEEN, 'add')(x) for x in xs]", "calls \"getattr(SEEN, 'add')(x)\""),
    ("def f(xs): return [random.random() for x in xs]", "uses 'random.random'"),
    ("def f(xs): return [random.Random(x).random() for x in xs]", "calls 'random.Random(x).random()'"),
    ("def f(xs): return [randint(0, x) for x in xs]", "uses 'randint'"),
    ("def f(xs): return [eval('xs') for x in xs]", "uses 'eval'"),
    ("def f(xs): return [len(locals()) for x in xs]", "uses 'locals'"),
    ("def f(xs): return [os.environ[x] for x in xs]", "uses 'os.environ'"),
    ("def f(xs): return [absent(x) for x in xs]", "uses 'absent'"),
    ("def f(xs, seen=[]): return [x for x in xs if x in seen]", "the default of a parameter"),
    ("def f(xs, *, it=iter([1, 2])): return [(x, y) for x in xs for y in it]", "the default of a parameter"),
    ("def f(xs, g=lambda SEEN: 0): return [remember(SEEN) for x in xs]", "uses 'SEEN'"),
    (
        "def make():\n    seen = []\n    def f(xs): return [remember(seen) for x in xs]\n    return f\nf = make()",
        "uses 'seen'",
    ),
    ("def make():\n    def f(xs): return [late for x in xs]\n    return f\n    late = 1\nf = make()", "uses 'late'"),
    (
        WRAPPED.format(parameters="*args"),
        "first parameter",
    ),
    (
        WRAPPED.format(parameters="xs"),
        "returns something else",
    ),
]

#: Refused, and rightly: source, first argument, other arguments.
CHANGED: list[tuple[str, list[Any], tuple[Any, ...]]] = [
    ("def f(xs):\n n = len(xs)\n return [x / n for x in xs]", NUMBERS, ()),
    ("def f(xs): return [(i, x) for i, x in enumerate(xs)]", NUMBERS, ()),
    ("def f(xs): return [x for x in xs if x == max(xs)]", NUMBERS, ()),
    ("def f(xs):\n out = []\n total = 0\n for x in xs:\n  total += x\n  out.append(total)\n return out", NUMBERS, ()),
    ("def f(xs):\n out = []\n last = 0\n for x in xs:\n  out.append(x - last)\n  last = x\n return out", NUMBERS, ()),
    (loop("if x > 1: y = x\nout.append(y)"), NUMBERS, ()),
    (loop("try: y = parse(x)\nexcept ValueError: pass\nout.append(y)"), [1, 2, -1, -2], ()),
    (loop("out.append(k)\nk = x", ", k"), NUMBERS, (0,)),
    ("def f(xs): return [y for x in xs if x == 3 or y for y in [x]]", NUMBERS, ()),
    (loop("if x not in out: out.append(x)"), NUMBERS, ()),
    (loop("if x == 1: break\nout.append(x)"), NUMBERS, ()),
    (loop("SEEN.add(x)\nout.append(len(SEEN))"), NUMBERS, ()),
    (loop("q = p\nq += [x]\nout.append(len(q))", ", p"), NUMBERS, ([],)),
    (loop("out.append(Config.last)\nfor Config.last in [x]: pass"), NUMBERS, ()),
    (loop("out.append((list.append(p, x), len(p)))", ", p"), NUMBERS, ([],)),
    (loop("out.append(heapq.heappushpop(p, x))", ", p"), NUMBERS, ([2],)),
    (loop("for q in [p]: out.append(next(q))", ", p"), NUMBERS, (iter("abcdef"),)),
    ("def f(xs): return [GROWING[x] for x in xs]", NUMBERS, ()),
    ("def f(xs): return [next(NUMBERS) for x in xs]", NUMBERS, ()),
    ("def f(xs): return [COUNTER(x) for x in xs]", NUMBERS, ()),
    ("random.seed(0)\ndef f(xs): return [random.random() for x in xs]", NUMBERS, ()),
    ("def f(xs, *, it=iter([1, 2])): return [(x, y) for x in xs for y in it]", NUMBERS, ()),
    (
        "def g(xs): return [(x for _ in [1]) for x in xs]\ndef f(xs): return [list(y) for y in g(xs)]",
        LISTS,
        (),
    ),
    ("def f(xs):\n out = []\n for x in xs: out.append(lambda: x)\n return [g() for g in out]", NUMBERS, ()),
]


@pytest.mark.parametrize(("source", "items", "rest"), [pytest.param(*case, id=name) for name, *case in ACCEPTED])
def test_accepted_loop_gives_the_same_in_any_number_of_parts(
    define: Define, source: str, items: list[Any], rest: tuple[Any, ...]
) -> None:
    function = define(source)
    assert why_not_split(function) is None
    assert why_not_split(function, items, *rest) is None
    whole = in_child(functools.partial(function, items, *rest))
    for splits in range(1, len(items) + 3):
        assert split(function, items, rest, splits) == whole
    assert split(function, [], rest, 3) == in_child(functools.partial(function, [], *rest)) == ("value", [])


@pytest.mark.parametrize(("source", "fragment"), REFUSED)
def test_refused_with_the_reason(define: Define, source: str, fragment: str) -> None:
    reason = why_not_split(define(source))
    assert reason is not None
    assert fragment in reason


@pytest.mark.parametrize(("source", "items", "rest"), CHANGED)
def test_refused_loop_would_have_changed_in_parts(
    define: Define, source: str, items: list[Any], rest: tuple[Any, ...]
) -> None:
    function = define(source)
    whole = in_child(functools.partial(function, items, *rest))
    assert why_not_split(function) is not None
    assert any(split(function, items, rest, splits) != whole for splits in range(2, len(items) + 1))


def test_reason_names_the_line_in_the_file(define: Define) -> None:
    function = define("def f(xs):\n out = []\n for x in xs:\n  out.append(len(out))\n return out")
    line = function.__code__.co_firstlineno + 3
    assert why_not_split(function) == f"line {line} uses 'out', which only the loop itself may"


def test_iterator_among_the_arguments_is_a_reason(define: Define) -> None:
    function = define("def f(xs, ys): return [(x, y) for x in xs for y in ys]")
    items, used_up = [1, 2], functools.partial(iter, [1, 2])
    assert why_not_split(function, items, [1, 2]) is None
    assert "an iterator" in str(why_not_split(function, items, used_up()))
    assert "an iterator" in str(why_not_split(function, items, ys=used_up()))
    assert "a defaultdict" in str(why_not_split(function, items, defaultdict(list)))
    assert split(function, items, (used_up(),), 2) != in_child(functools.partial(function, items, used_up()))


def test_first_argument_by_name_is_split_only_if_it_is_first(define: Define) -> None:
    """The runner splits the first argument given, which by name need not be the first parameter."""
    function = define("def f(xs, ys): return [x + len(ys) for x in xs]")
    assert why_not_split(function, xs=[1], ys=[2]) is None
    assert "not the first argument given" in str(why_not_split(function, ys=[2], xs=[1]))


def test_source_that_was_edited_since_is_refused(define: Define, tmp_path: Path) -> None:
    path = tmp_path / "loops_under_test.py"
    function = define("def f(xs): return [x for x in xs if x not in xs[:1]]")
    path.write_text(path.read_text().replace(" if x not in xs[:1]", ""), encoding="utf-8")
    assert "edited" in str(why_not_split(function))
    path.unlink()
    linecache.clearcache()
    assert why_not_split(function) == "its source cannot be read"


def test_function_of_a_module_that_pytest_rewrote_is_looked_into() -> None:
    def in_this_file(xs: list[int], factor: int) -> list[int]:
        return [factor * x for x in xs]

    def with_assert(xs: list[int]) -> list[int]:
        out = []
        for x in xs:
            assert x
            out.append(x)
        return out

    assert why_not_split(in_this_file) is None
    assert "pytest rewrote an assert" in str(why_not_split(with_assert))


def test_value_that_holds_itself_is_refused(define: Define) -> None:
    assert why_not_split(define("ROWS.append(ROWS)\ndef f(xs): return [ROWS[x] for x in xs]")) is not None


def test_file_that_gives_warnings_is_looked_into_without_them(define: Define) -> None:
    """It gave them when it was imported; given again, with warnings as errors, they would be a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function = define("PATTERN = '\\d'\ndef f(xs): return [x for x in xs]")
    assert why_not_split(function) is None
