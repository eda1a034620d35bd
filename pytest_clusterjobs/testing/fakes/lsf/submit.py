"""The fake's bsub."""

from __future__ import annotations

import os
import pwd
import re
import sys
import time
from typing import Any

from pytest_clusterjobs.testing.fakes.cluster import HELD, QUEUED, FakeJob, Queue
from pytest_clusterjobs.testing.fakes.lsf.cluster import VERSIONS, FakeLsf, Version, command_of, user_name

USAGE = """\
Usage: bsub [-h] [-V] [-x] [-H] [-r] [-N] [-B] [-I | -K | -Ip | -Is]
\t\t[-L login_shell] [-c cpu_limit[/host_spec]] [-F file_limit]
\t\t[-W run_limit[/host_spec]] [-k chkpnt_dir [chkpnt_period] [method=chkpnt_dir]]
\t\t[-P project_name] 
\t\t[-q queue_name ...]  [-R res_req]
\t\t[-m "host_name[+[pref_level]] | host_group[+[pref_level]]...]"
\t\t[-n min_processors[,max_processors]] [-J job_name] [-Jd job_desc]
\t\t[-b begin_time] [-t term_time] [-u mail_user]
\t\t[-i in_file | -is in_file] [-o out_file] [-e err_file]
\t\t[-M mem_limit]  [-D data_limit]  [-S stack_limit]
\t\t[[-f "lfile op [rfile]"] ...] [-w depend_cond]
\t\t[-E "pre_exec_command [argument ...]"] [-Zs]
\t\t[-Ep "post_exec_command [argument ...]"
\t\t[-sp job_priority]
\t\t[-pack job_submission_file]
\t\t[-a additional_esub_information]
\t\tcommand [argument ...]
"""  # noqa: W291 - as it was recorded

_WITH_VALUE = frozenset(
    [
        "L",
        "c",
        "F",
        "W",
        "k",
        "P",
        "q",
        "R",
        "m",
        "n",
        "J",
        "Jd",
        "b",
        "t",
        "u",
        "i",
        "is",
        "o",
        "e",
        "M",
        "D",
        "S",
        "f",
        "w",
        "E",
        "Ep",
        "sp",
        "a",
        "C",
        "p",
        "v",
    ]
)
_FLAGS = frozenset(["x", "H", "r", "N", "B", "I", "K", "Ip", "Is", "Zs"])
_IBM_WITH_VALUE = frozenset(["gpu", "cwd", "env", "G", "g", "app", "U", "sla", "oo", "eo", "Q"])
_IBM_FLAGS = frozenset({"rn", "XF"})
_NAME_LENGTH = 511
_NOT_INHERITED = frozenset({"HOME", "PWD", "USER", "TERM", "TERMCAP"})
_RESOURCES = frozenset(
    [
        "r15s",
        "r1m",
        "r15m",
        "ut",
        "pg",
        "io",
        "ls",
        "it",
        "tmp",
        "swp",
        "mem",
        "type",
        "model",
        "cpuf",
        "ncpus",
        "status",
        "hosts",
        "ptile",
        "local",
        "any",
    ]
)
_SCALES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_PATIENCE_S = 600.0


class RefusedError(Exception):
    """bsub refuses; the text is what it says."""


def bsub(cluster: FakeLsf, words: list[str]) -> int:
    """Take a job."""
    with cluster.look() as queue:
        version = VERSIONS[queue.setting("version")]
    if words[:1] == ["-V"]:
        return 0
    if words[:1] == ["-h"]:
        sys.stderr.write(USAGE)
        return 255
    try:
        options, command = parse(words, version)
        script = f"#!/bin/sh\n{' '.join(command)}\n" if command else sys.stdin.read()
        if not command:
            options = {**embedded(script, version), **options}
        if not script.strip():
            raise RefusedError("No command is specified")
        number, queue_name = _wait_for_room(cluster, options, script if command else _with_shebang(script))
    except RefusedError as error:
        said = str(error)
        sys.stderr.write(said if said.endswith("\n") else f"{said}. Job not submitted.\n")
        return 255
    _lose_reply(cluster)
    if "BSUB_QUIET" not in os.environ:
        default = "" if "q" in options else "default "
        print(f"Job <{number}> is submitted to {default}queue <{queue_name}>.")
    return 0


def _with_shebang(script: str) -> str:
    return script if script.startswith("#!") else f"#!/bin/sh\n{script}"


def parse(words: list[str], version: Version) -> tuple[dict[str, str], list[str]]:
    """Read options up to the first word that is none; what follows is the job's command."""
    with_value = _WITH_VALUE | (_IBM_WITH_VALUE if version.is_ibm else frozenset())
    flags = _FLAGS | (_IBM_FLAGS if version.is_ibm else frozenset())
    options: dict[str, str] = {}
    left = list(words)
    while left and left[0].startswith("-") and not left[0].startswith("--"):
        option = left.pop(0)[1:]
        if option in with_value:
            if not left:
                raise RefusedError(USAGE)
            options[option] = left.pop(0)
        elif option in flags:
            options[option] = ""
        elif option[:1] in with_value:  # the value may follow at once: -cwd is a limit of "wd"
            options[option[0]] = option[1:]
        else:
            raise RefusedError(f"bsub: illegal option -- {option}\n{USAGE}")
    return options, left


def embedded(script: str, version: Version) -> dict[str, str]:
    """Read the directives in a script."""
    words: list[str] = []
    for line in script.splitlines():
        if match := re.match(r"#\s*BSUB\s+(-.*)", line):
            words += [
                double or single or plain
                for double, single, plain in re.findall(r"\"([^\"]*)\"|'([^']*)'|(\S+)", match[1])
            ]
    return parse(words, version)[0]


def _wait_for_room(cluster: FakeLsf, options: dict[str, str], script: str) -> tuple[int, str]:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with cluster.change() as queue:
            limit, retry_s = queue.setting("max_pending"), float(queue.setting("retry_s"))
            if limit is None or sum(1 for _ in queue.jobs(QUEUED, HELD)) < limit:
                return _add(cluster, queue, options, script)
        message = f"User <{user_name()}>: Pending job threshold reached"
        if time.monotonic() > deadline or os.environ.get("LSB_NTRIES") == "1":
            raise RefusedError(message)
        sys.stderr.write(f"{message}. Retrying in {retry_s:.0f} seconds...\n")
        sys.stderr.flush()
        time.sleep(retry_s)


def _add(cluster: FakeLsf, queue: Queue, options: dict[str, str], script: str) -> tuple[int, str]:
    facts, cores, minutes = _checked(queue, options)
    environment, is_readable = _kept(dict(os.environ), VERSIONS[queue.setting("version")])
    name, indices, throttle = _array(options.get("J", ""), int(queue.setting("max_array")))
    number = queue.next_number()
    now = time.time()
    queue.add(
        FakeJob(
            number=number,
            name=name or command_of(script),
            element=element,
            environment=environment,
            cwd=os.getcwd(),
            cores=cores,
            time_limit_s=None if minutes is None else minutes * float(queue.setting("minute_s")),
            max_concurrent=throttle,
            state=HELD if "H" in options else QUEUED,
            submitted_at=now,
            facts={**facts, "name": options.get("J"), "script": script, "is_readable": is_readable},
            **cluster.wrapped(number, element, "e" in options),
        )
        for element in (indices or (None,))
    )
    return number, str(facts["queue"])


def _kept(environment: dict[str, str], version: Version) -> tuple[dict[str, str], bool]:
    """Give what a job gets of bsub's environment, and whether the file that it travels in can be read back.

    The OpenLava family writes ``NAME='value'; export NAME`` without quoting (lsb.sub.c), and looks for that end.
    """
    left = {name: value for name, value in environment.items() if name not in _NOT_INHERITED}
    home = {"HOME": pwd.getpwuid(os.geteuid()).pw_dir, "USER": user_name()}
    return {**left, **home}, version.is_ibm or not any("'; export " in value for value in left.values())


def _checked(queue: Queue, options: dict[str, str]) -> tuple[dict[str, Any], int, int | None]:
    version = VERSIONS[queue.setting("version")]
    if "c" in options and not re.fullmatch(r"(\d+:)?\d+(/\S+)?", options["c"]):
        raise RefusedError(f"{options['c']}: Bad CPULIMIT specification")
    if len(options.get("J", "")) > _NAME_LENGTH:
        raise RefusedError("Bad job name")
    cores = options.get("n", "1").partition(",")[0]
    if not cores.isdigit() or int(cores) < 1:
        raise RefusedError("The number of processors must be a positive integer")
    minutes = _minutes(options.get("W"))
    memory = re.fullmatch(r"(\d+)([KMGT]?)B?" if version.is_ibm else r"(\d+)()", options.get("M", "1"))
    if not memory or int(memory[1]) < 1:
        raise RefusedError(f"{options['M']}: MEMLIMT value should be a positive integer")
    if not _is_requirement(options.get("R", "")):
        raise RefusedError("Bad resource requirement syntax")
    name = options.get("q") or queue.setting("default_queue")
    known = {each["name"]: each for each in queue.setting("queues")}
    if name not in known:
        raise RefusedError(f"{name}: No such queue")
    if known[name]["status"].startswith("Closed"):
        raise RefusedError(f"{name}: Queue has been closed")
    longest = known[name]["run_limit_min"]
    if minutes is not None and longest is not None and minutes > longest:
        raise RefusedError("RUNLIMIT: Cannot exceed queue's hard limit(s)")
    if int(cores) > int(queue.setting("slots", 1)):
        raise RefusedError("Too many processors requested")
    facts = {
        "queue": name,
        "project": options.get("P", "default"),
        "out": options.get("o"),
        "err": options.get("e"),
        "needs": options.get("R", ""),
        "minutes": minutes,
        "is_held": "H" in options,
        "memory_bytes": int(memory[1]) * _SCALES.get(memory[2], version.limit_unit) if "M" in options else None,
    }
    return facts, int(cores), minutes if minutes is not None else longest


def _minutes(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d+):)?(\d+)(?:/\S+)?", text)
    if not match:
        raise RefusedError(f"{text}: Bad RUNLIMIT specification")
    return int(match[1] or 0) * 60 + int(match[2])


def _is_requirement(text: str) -> bool:
    sections = re.findall(r"(\w+)\[([^\[\]]*)\]", text)
    if re.sub(r"\w+\[[^\[\]]*\]", "", text).strip():
        return False
    names = [name for _, inside in sections for name in re.findall(r"[A-Za-z_]\w*", inside.partition("=")[0])]
    return all(name in {"select", "rusage", "span", "order", "same"} for name, _ in sections) and (
        all(name in _RESOURCES for name in names)
    )


def _array(text: str, limit: int) -> tuple[str, list[int], int | None]:
    """Read a name; an array whose range is not right is one plain job of that very name."""
    match = re.fullmatch(r"([^\[]*)\[([\d,:-]+)\](?:%(\d+))?", text)
    if not match:
        return text, [], None
    indices: list[int] = []
    for part in match[2].split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if not span:
            return text, [], None
        first, last = int(span[1]), int(span[2] or span[1])
        if not 1 <= first <= last <= limit:
            return text, [], None
        indices += range(first, last + 1, max(1, int(span[3] or 1)))
    return match[1], indices, int(match[3]) if match[3] else None


def _lose_reply(cluster: FakeLsf) -> None:
    with cluster.change() as queue:
        lost = int(queue.setting("lost_replies", 0))
        if lost:
            queue.set("lost_replies", lost - 1)
    if lost:
        time.sleep(_PATIENCE_S)
