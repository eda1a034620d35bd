"""Start the runner: ``python -u start.py JOB_DIRECTORY``.

Run by path, and short, because Python compiles a script anew each time. The files beside this one become a package of a
private name, whose compiled form is kept, and which a function's own imports cannot meet.
"""

import os
import sys
import types


def main() -> int:
    """Run the job whose directory is the argument; gives the exit code."""
    sys.path.pop(0)  # this folder holds nothing to import
    package = types.ModuleType("_clusterjobs_node")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules["_clusterjobs_node"] = package
    from _clusterjobs_node import runner  # type: ignore[import-not-found]

    return int(runner.main(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
