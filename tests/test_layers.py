"""The layers: who may import whom, which third-party package is imported where, and what only one place may know."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pytest_clusterjobs
from pytest_clusterjobs.backends import registry

PACKAGE = "pytest_clusterjobs"
SOURCE = Path(pytest_clusterjobs.__file__).parent
EVERYTHING = frozenset(
    {"backends", "clusters", "config", "core", "decorator", "engine", "node", "reports", "transports"}
)

#: Layer -> what it may import of ours, apart from itself. A longer path allows that module alone.
OURS: dict[str, frozenset[str]] = {
    "": frozenset({"decorator", "core", "engine"}),  # __init__: names only, all of them late
    "decorator": frozenset({"core", "engine", "backends.registry", "node"}),
    "node": frozenset(),
    "core": frozenset(),
    "reports": frozenset({"core"}),
    "transports": frozenset({"core"}),
    "config": frozenset({"core"}),
    "backends": frozenset({"core", "transports"}),
    # Its store speaks to a transport too: job directories lie where the cluster is.
    "engine": frozenset({"core", "node", "transports", "config", "backends.base", "backends.registry"}),
    "clusters": frozenset({"core", "config"}),
    "testing": frozenset({"core", "backends", "engine", "config", "transports"}),
    "plugin": EVERYTHING,
    "cli": EVERYTHING,
}

#: What a module imports of ours beyond its layer, and why.
EXCEPTIONS = {
    # A job that submits jobs, where the user has asked for it: then the package is installed on the node.
    ("node/runner.py", "pytest_clusterjobs"),
    ("node/packing.py", "pytest_clusterjobs"),
}

#: Third-party package -> the modules or folders that may import it.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "_clusterjobs_node": ("node/start.py",),  # the name that what travels has on the node
    "_sha2": ("node/packing.py",),  # of the standard library, from Python 3.12 on
    "_sha256": ("node/packing.py",),  # and before
    "_pytest": ("plugin/", "node/"),  # on the node to word a failed assert, where it is installed
    "click": ("cli/",),
    "cloudpickle": ("engine/payload.py", "node/"),  # on the node it is the copy that travels along
    "filelock": ("engine/store.py",),
    "jinja2": ("reports/html.py",),
    "kubernetes": ("backends/kubernetes_api.py",),
    "pluggy": ("plugin/",),
    "pydantic": ("config/profiles.py", "engine/groups.py"),
    "pytest": ("plugin/", "testing/"),
    "rich": ("cli/", "plugin/live.py"),
    "urllib3": ("backends/kubernetes_api.py",),  # what the client of Kubernetes speaks with
    "xdist": ("plugin/xdist.py",),
    "yaml": ("config/files.py",),
}
#: Those that may be imported when a module of these folders is; all others only inside the function that needs them.
EARLY = {"pytest": ("plugin/", "testing/"), "pluggy": ("plugin/",), "click": ("cli/",)}

SUBPROCESS = ("transports/", "clusters/", "node/", "backends/local.py")

#: Names by which xdist's workers know themselves.
XDIST_NAMES = frozenset({"workerinput", "workeroutput", "workerid", "dsession", "pytest_testnodedown"})


class Import(NamedTuple):
    """One imported name."""

    line: int
    #: Dotted.
    target: str
    is_late: bool
    is_for_types: bool


def imports(tree: ast.AST, *, late: bool = False, for_types: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, name.name, late, for_types) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (Import(node.lineno, base + name.name, late, for_types) for name in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports(node, late=late, for_types=True)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, late=late or inside, for_types=for_types)


def layer_of(path: str) -> str:
    return path.partition("/")[0] if "/" in path else path.removesuffix(".py").replace("__init__", "")


def is_in(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)


def complaints(path: str, text: str) -> list[str]:
    """Say what is wrong in a module, each with its line."""
    tree = ast.parse(text)
    found = [complaint for each in imports(tree) if (complaint := _about_import(path, each))]
    found += list(_about_names(path, tree))
    return [f"{path}:{complaint}" for complaint in found]


def _about_import(path: str, each: Import) -> str | None:
    top, _, inner = each.target.partition(".")
    if not top:  # what travels does not know the name of the package that it travels in
        is_beside = path.startswith("node/") and not inner.startswith(".")
        return None if is_beside else f"{each.line}: imports {each.target!r} relatively"
    if top == PACKAGE:
        return _about_ours(path, each, inner)
    if top == "subprocess" and not is_in(path, SUBPROCESS):
        return f"{each.line}: imports subprocess; run commands through a transport"
    if top in sys.stdlib_module_names:
        return None
    if not is_in(path, THIRD_PARTY.get(top, ())):
        return f"{each.line}: imports {top}"
    if not (each.is_late or each.is_for_types or is_in(path, EARLY.get(top, ()))):
        return f"{each.line}: imports {top} when it is imported itself"
    return None


def _about_ours(path: str, each: Import, inner: str) -> str | None:
    layer = layer_of(path)
    parts = inner.split(".")
    allowed = OURS[layer]
    if parts[0] == layer or parts[0] in allowed or ".".join(parts[:2]) in allowed:
        if layer == "backends" and len(parts) > 1 and f"{parts[1]}.py" in _concrete_backends() - {Path(path).name}:
            return f"{each.line}: a backend imports another one, {parts[1]}"
        return None if layer or each.is_late or each.is_for_types else f"{each.line}: imports {inner} at once"
    if each.is_late and (path, each.target.rpartition(".")[0]) in EXCEPTIONS:
        return None
    return f"{each.line}: {layer or '__init__'} imports {inner}"


def _concrete_backends() -> set[str]:
    return {f"{name}.py" for name in registry.names()}


def _about_names(path: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and not path.startswith("backends/"):
            words = {word.value for word in ast.walk(node) if isinstance(word, ast.Constant)}
            if (names := words.intersection(registry.names())) and not _is_nesting_mode(node):
                yield f"{node.lineno}: asks whether a backend is {', '.join(map(str, names))}; ask for a capability"
        name = _name_of(node)
        if (name in XDIST_NAMES or name.startswith("PYTEST_XDIST")) and path != "plugin/xdist.py":
            yield f"{getattr(node, 'lineno', 0)}: knows xdist by {name!r}"


def _is_nesting_mode(node: ast.Compare) -> bool:
    return isinstance(node.left, ast.Name) and node.left.id == "mode"  # CLUSTERJOBS_NESTED=local is no backend


def _name_of(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


MODULES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_a_module_keeps_to_its_layer(path: str) -> None:
    assert complaints(path, (SOURCE / path).read_text(encoding="utf-8")) == []


def test_every_layer_is_in_the_table() -> None:
    assert {layer_of(path) for path in MODULES} <= set(OURS)


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("core/spec.py", "import pytest_clusterjobs.engine.run", "core imports engine.run"),
        ("core/spec.py", "from pytest_clusterjobs import engine", "core imports engine"),
        ("core/spec.py", "from . import errors", "relatively"),
        ("core/spec.py", "import yaml", "imports yaml"),
        ("core/spec.py", "import pytest", "imports pytest"),
        ("node/runner.py", "from pytest_clusterjobs.core import units", "node imports core.units"),
        ("node/runner.py", "from pytest_clusterjobs import cluster", "node imports cluster"),
        ("node/runner.py", "from ..core import units", "relatively"),
        ("node/runner.py", "import _pytest.outcomes", "when it is imported itself"),
        ("engine/run.py", "from pytest_clusterjobs.backends.slurm import SlurmBackend", "imports backends.slurm"),
        ("engine/run.py", "from pytest_clusterjobs.backends import slurm", "imports backends.slurm"),
        ("engine/run.py", "import pytest", "imports pytest"),
        ("engine/store.py", "from filelock import FileLock", "when it is imported itself"),
        ("engine/run.py", "def f():\n    import filelock", "imports filelock"),
        ("engine/run.py", "import subprocess", "imports subprocess"),
        ("engine/run.py", "def f():\n    from subprocess import run", "imports subprocess"),
        ("backends/slurm.py", "from pytest_clusterjobs.backends.local import LocalBackend", "another one, local"),
        ("backends/slurm.py", "from pytest_clusterjobs.engine import run", "backends imports engine.run"),
        ("plugin/marks.py", "from pytest_clusterjobs.cli import main", "plugin imports cli.main"),
        ("cli/run.py", "def f():\n    from pytest_clusterjobs.plugin import marks", "cli imports plugin.marks"),
        ("cli/run.py", "from pytest_clusterjobs.testing import conformance", "cli imports testing.conformance"),
        ("plugin/marks.py", "import xdist", "imports xdist"),
        ("plugin/marks.py", "def f(config):\n    return config.workerinput", "knows xdist by 'workerinput'"),
        ("plugin/marks.py", "import os\nos.environ['PYTEST_XDIST_WORKER']", "knows xdist by"),
        ("engine/run.py", "def f(name):\n    return name == 'slurm'", "ask for a capability"),
        ("engine/run.py", "def f(name):\n    return name in ('pbs', 'slurm')", "ask for a capability"),
        ("__init__.py", "from pytest_clusterjobs.decorator import cluster", "imports decorator.cluster at once"),
    ],
)
def test_a_breach_is_seen(path: str, text: str, complaint: str) -> None:
    assert complaint in "\n".join(complaints(path, text))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("core/spec.py", "import dataclasses\nfrom pytest_clusterjobs.core import errors"),
        ("engine/store.py", "def f():\n    from filelock import FileLock"),
        ("engine/run.py", "if TYPE_CHECKING:\n    from pytest_clusterjobs.backends.base import Backend"),
        ("transports/local.py", "import subprocess"),
        ("plugin/xdist.py", "def f(config):\n    return config.workerinput"),
        ("backends/slurm.py", "def f(name):\n    return name == 'slurm'"),
        ("node/packing.py", "def f():\n    from pytest_clusterjobs import cluster"),
    ],
)
def test_what_is_allowed_is_let_be(path: str, text: str) -> None:
    assert complaints(path, text) == []
