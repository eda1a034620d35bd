"""What a contestant is: a process that reads ``TASK COUNT`` from a line and answers how long that took.

Standard library only: the peers run it in a Python of their own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

#: Does a task for so many jobs, up to the last value.
Task = Callable[[int], object]


def serve(tasks: Mapping[str, Task]) -> None:
    """Do what standard input asks for until it ends; each answer is a line of JSON on standard output."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        for line in sys.stdin:
            name, count = line.split()
            print(json.dumps(_measured(tasks[name], int(count))), file=answers, flush=True)


def _measured(task: Task, count: int) -> dict[str, Any]:
    began = time.perf_counter()
    task(count)
    seconds = time.perf_counter() - began
    # Kilobytes on Linux, getrusage(2).
    return {"seconds": seconds, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
