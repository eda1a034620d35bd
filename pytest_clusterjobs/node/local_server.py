"""Start the local job server: ``python -u local_server.py OPTIONS``, where OPTIONS is one JSON object.

Run by path. The files beside this one become a package of a private name, so that a job, which is a fork of this
process, can import anything of the user's without meeting them.
"""

import gc
import importlib
import importlib.util
import json
import os
import sys
import types
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "_clusterjobs_local"

#: What the runner imports only when it is needed, and which is then needed by many jobs.
_USUAL = ("pkgutil", "subprocess", "traceback")


def load(name: str, path: str) -> types.ModuleType:
    """Import a module or package from the file ``path`` under ``name``, leaving the import path as it is."""
    folder = [os.path.dirname(path)] if os.path.basename(path) == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    if spec is None or spec.loader is None:
        raise ImportError("cannot load {} from {}".format(name, path))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare(cloudpickle: str) -> Any:
    """Import what every job needs, and give the module with the server's loop."""
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [_HERE]
    sys.modules[_PACKAGE] = package
    if cloudpickle:
        load("cloudpickle", cloudpickle)
    for name in _USUAL:
        importlib.import_module(name)
    importlib.import_module(_PACKAGE + ".packing").sha256(b"")
    return importlib.import_module(_PACKAGE + ".local_scheduler")


def main() -> int:
    """Serve; in a forked process, be what it was forked for. Gives the exit code of the process that this then is."""
    options, own = json.loads(sys.argv[1]), os.getpid()
    try:
        scheduler = prepare(options.pop("cloudpickle"))
        os.chdir("/")
        gc.collect()
        gc.freeze()  # jobs do not copy the template's pages merely to look for garbage in them
        role = scheduler.server(options)
        while True:
            try:
                return int(role())
            except scheduler.Forked as forked:  # unwound to here: nothing of the parent's is on the stack
                role = forked.role
    except Exception as error:
        if os.getpid() == own:
            crash = "{}: {}".format(type(error).__name__, error)
            os.write(options["client"], json.dumps({"crash": crash}).encode() + b"\n")
        raise


if __name__ == "__main__":
    del sys.path[0]  # this folder holds nothing to import
    sys.exit(main())
