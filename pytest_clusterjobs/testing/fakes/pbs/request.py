"""What qsub takes: options, directives, and a job made of them, or the words with which it is refused."""

from __future__ import annotations

import getopt
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_clusterjobs.testing.fakes.cluster import ENDED, HELD, QUEUED, FakeJob, Queue
from pytest_clusterjobs.testing.fakes.pbs.site import DEFAULT_QUEUE, INDEX, QUEUES, host, job_id, kilobytes

_OPTIONS = "a:A:c:C:e:fhIJ:j:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz"
USAGE = """\
usage: qsub [-a date_time] [-A account_string] [-c interval]
	[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
	[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
	[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
	[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
	[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
"""
_LONGEST_NAME = 236
_KNOWN = frozenset(
    {"ncpus", "mem", "vmem", "pmem", "walltime", "cput", "mpiprocs", "ompthreads", "host", "vnode", "arch"}
)
_COUNTED = frozenset({"ncpus", "mpiprocs", "ompthreads", "ngpus"})
_SIZES = frozenset({"mem", "vmem", "pmem"})


class Refusal(Exception):
    """What a command says, and its exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Request:
    """A submission as it was asked for."""

    #: Option letter -> value; the command line goes before the script's directives.
    options: dict[str, str]
    #: Resource -> value, of every ``-l``.
    resources: dict[str, str] = field(default_factory=dict)
    #: The script's text, or None for a command.
    script: str | None = None
    #: The command after ``--``.
    command: list[str] = field(default_factory=list)
    #: As ``Submit_arguments`` shows it.
    arguments: str = ""
    #: The script's file name.
    file_name: str = ""


def read_request(argv: Sequence[str], stdin: str) -> Request:
    """Read a qsub command line, and the script that it names.

    Raises:
        Refusal: qsub itself refuses it.
    """
    words, command = list(argv), []
    if "--" in words:
        position = words.index("--")
        words, command = words[:position], words[position + 1 :]
    options, resources, rest = _options(words)
    request = Request(options, resources, command=command, arguments=" ".join(argv))
    if not command:
        request.script, request.file_name = _script(rest, stdin)
        prefix = options.get("C", "#PBS")
        inner, inner_resources, _ = _options(_directives(request.script, prefix))
        request.options = {**inner, **options}
        request.resources = {**inner_resources, **resources}
    _check_words(request)
    return request


def _options(words: Sequence[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    try:
        found, rest = getopt.getopt(list(words), _OPTIONS)
    except getopt.GetoptError as error:
        raise Refusal(2, f"qsub: invalid option -- '{error.opt[:1]}'\n{USAGE}") from None
    resources: dict[str, str] = {}
    for option, value in found:
        if option == "-l":
            for part in value.split(","):
                name, _, amount = part.partition("=")
                resources[name] = amount
    return {option[1:]: value for option, value in found if option != "-l"}, resources, rest


def _directives(script: str, prefix: str) -> list[str]:
    words: list[str] = []
    for line in script.splitlines():
        if line.startswith(prefix):
            words += shlex.split(line[len(prefix) :])
        elif line.strip() and not line.startswith((":", "#")):
            break
    return words


def _script(rest: Sequence[str], stdin: str) -> tuple[str, str]:
    if not rest:
        return stdin, ""
    try:
        with open(rest[0], encoding="utf-8", errors="surrogateescape") as file:
            return file.read(), os.path.basename(rest[0])
    except OSError as error:
        raise Refusal(1, f"qsub: script file:: {error.strerror}\n") from None


def _check_words(request: Request) -> None:
    name = request.options.get("N")
    if name is not None and len(name) > _LONGEST_NAME:
        raise Refusal(2, "qsub: Job name is too long \n")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9+_.-]+", name):
        raise Refusal(2, f"qsub: illegal -N value\n{USAGE}")
    for letter in "oe":  # prepare_path.c: letters beyond ASCII are nothing that it prints
        if not re.fullmatch(r"[ -~]*", request.options.get(letter, "")):
            raise Refusal(2, f"qsub: illegal -{letter} value\n{USAGE}")
    if "J" in request.options:
        element_numbers(request.options["J"])
        if request.options.get("r") == "n":  # qsub.c, norerunarray
            raise Refusal(2, "qsub:  cannot submit non-rerunable Array Job\n")
    for part in _split_variables(request.options.get("v", "")):
        key, equals, value = part.partition("=")
        if '"' in value.replace('{"', "") or (not equals and key not in os.environ):
            raise Refusal(1, "qsub: cannot send environment with the job\n")


def element_numbers(text: str) -> tuple[range, int | None]:
    """Read ``-J``: ``0-9``, ``0-9:3``, ``0-9%2``.

    Raises:
        Refusal: It is none of these, or one element.
    """
    match = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%(\d+))?", text)
    if not match or int(match[1]) >= int(match[2]):
        raise Refusal(2, f"qsub: illegal -J value\n{USAGE}")
    numbers = range(int(match[1]), int(match[2]) + 1, int(match[3] or 1))
    return numbers, int(match[4]) if match[4] else None


def _split_variables(text: str) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\),", text)] if text else []


def admit(queue: Queue, request: Request, user: str, directory: str) -> str:
    """Take a job or an array in, and give its id.

    Raises:
        Refusal: The server refuses it.
    """
    options = request.options
    if os.getuid() == 0 and not queue.setting("acl_roots", ""):
        raise Refusal(175, "qsub: Bad UID for job execution\n")
    name = options.get("q") or DEFAULT_QUEUE
    name, at, elsewhere = name.partition("@")
    if at and elsewhere.partition(".")[0] != host():
        raise Refusal(160, f"Unknown Host.\nqsub: cannot connect to server {host()} (errno=15008)\n")
    if name not in QUEUES:
        raise Refusal(170, "qsub: Unknown queue\n")
    if not QUEUES[name][0]:
        raise Refusal(173, "qsub: Queue is not enabled\n")
    facts = _resources(queue, request)
    limit = QUEUES[name][2]
    walltime = request.resources.get("walltime")
    if limit and walltime and seconds_of(walltime) > seconds_of(limit):
        raise Refusal(188, "qsub: Job violates queue and/or server resource limits\n")
    numbers, most = element_numbers(options["J"]) if "J" in options else (None, None)
    if numbers is not None and len(numbers) > int(queue.setting("max_array_size", 10_000)):
        raise Refusal(3, "qsub: Array job exceeds server or queue size limit\n")
    allowed = queue.setting("max_jobs")
    if allowed is not None and sum(1 for job in queue.jobs() if job.state != ENDED) >= allowed:
        raise Refusal(38, "qsub: would exceed complex's per-user limit\n")
    number = queue.next_number()
    is_login = bool(queue.setting("login_shell", False))
    facts.update(queue=name, user=user, ctime=time.time(), is_login=is_login, **_facts(request, number, user))
    elements = [None] if numbers is None else numbers
    if "d" in facts["keep"] and not all(_is_writable(facts["paths"]["o"], element) for element in elements):
        facts["hold"] = "s"  # that of a server that has tried to start it 20 times
    queue.set(f"job {number}", facts)
    queue.add(_job(request, facts, number, element, directory, most) for element in elements)
    return job_id(number, is_array=numbers is not None)


def _is_writable(path: str, element: int | None) -> bool:
    """Tell whether the daemon could write a job's output where it is to go at once (``-k oed``)."""
    path = path.replace(INDEX, str(element))
    return os.path.isdir(path) or os.path.isdir(os.path.dirname(path))


def _resources(queue: Queue, request: Request) -> dict[str, Any]:
    asked = request.resources
    known = _KNOWN | ({"ngpus"} if queue.setting("gpus", 0) else frozenset())
    count, chunk = 1, {"ncpus": asked.get("ncpus", "1")}
    if "select" in asked:
        if "nodes" in asked:
            raise Refusal(6, "qsub: Cannot be used with select or place: nodes\n")
        first, *parts = asked["select"].split(":")
        if first.isdigit():
            count = int(first)
        else:
            parts = [first, *parts]
        if count < 1:
            raise Refusal(166, "qsub: Illegal attribute or resource value\n")
        chunk = dict(part.partition("=")[::2] for part in parts)
    for name, value in chunk.items():
        if name not in known:
            raise Refusal(187, f"qsub: Unknown resource: {name}\n")
        if not _is_legal(name, value):
            raise Refusal(166, f"qsub: Illegal attribute or resource value select.{name}\n")
    for name, value in asked.items():
        if name not in ("select", "place", "nodes"):
            if name not in known:
                raise Refusal(187, f"qsub: Unknown resource Resource_List.{name}\n")
            if not _is_legal(name, value):
                raise Refusal(166, f"qsub: Illegal attribute or resource value Resource_List.{name}\n")
    place = asked.get("place") or ("free" if "select" in asked else "pack")
    select = asked.get("select") or f"1:ncpus={chunk['ncpus']}"
    listed = {"ncpus": count * int(chunk.get("ncpus", "1")), "nodect": count, "place": place, "select": select}
    for name in _KNOWN | {"ngpus"}:
        if name in chunk and name not in ("ncpus", "host", "vnode", "arch", "ompthreads"):
            listed[name] = count * int(chunk[name]) if name in _COUNTED else chunk[name]
        elif name in asked and name != "ncpus":
            listed[name] = asked[name]
    if "walltime" in listed:
        listed["walltime"] = clock(seconds_of(asked["walltime"]))
    return {"chunks": count, "chunk": chunk, "place": place, "resources": dict(sorted(listed.items()))}


def _is_legal(name: str, value: str) -> bool:
    try:
        if name in _COUNTED:
            return value.isdigit()
        if name in _SIZES:
            kilobytes(value)
        elif name in ("walltime", "cput"):
            seconds_of(value)
    except ValueError:
        return False
    return True


def seconds_of(text: str) -> int:
    """Read ``[[HH:]MM:]SS``."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise ValueError(text)
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return int(seconds)


def clock(seconds: float) -> str:
    """Write ``HH:MM:SS``."""
    return f"{int(seconds) // 3600:02}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def _facts(request: Request, number: int, user: str) -> dict[str, Any]:
    options = request.options
    name = options.get("N") or request.file_name[:15] or "STDIN"
    is_array = "J" in options
    suffix = f".{INDEX}" if is_array else ""
    paths = {}
    for letter in "oe":
        asked = options.get(letter)
        path = os.path.join(os.getcwd(), f"{name}.{letter}{number}{suffix}" if asked is None else asked)
        paths[letter] = path
    return {
        "name": name,
        "paths": paths,
        "join": options.get("j", "n"),
        "keep": options.get("k", "n"),
        "mail": options.get("m", "a"),
        "rerunable": options.get("r", "y") == "y",
        "hold": "u" if "h" in options else "n",
        "account": options.get("A"),
        "shell": options.get("S"),
        "project": options.get("P", "_pbs_project_default"),
        "array": options.get("J"),
        "arguments": request.arguments,
        "executable": request.command,
        "variables": _variables(options),
    }


def _variables(options: Mapping[str, str]) -> dict[str, str]:
    environment = os.environ
    variables = {
        "PBS_O_HOME": environment.get("HOME", "/"),
        **({"PBS_O_LANG": environment["LANG"]} if "LANG" in environment else {}),
        "PBS_O_LOGNAME": environment.get("LOGNAME", environment.get("USER", "")),
        "PBS_O_PATH": environment.get("PATH", ""),
        "PBS_O_SHELL": environment.get("SHELL", "/bin/bash"),
        "PBS_O_WORKDIR": os.getcwd(),
        "PBS_O_SYSTEM": "Linux",
    }
    if "V" in options:
        variables.update((name, value) for name, value in environment.items() if not name.startswith("PBS_"))
    for part in _split_variables(options.get("v", "")):
        name, equals, value = part.partition("=")
        variables[name] = value.strip("'") if equals else environment[name]
    variables["PBS_O_QUEUE"] = (options.get("q") or DEFAULT_QUEUE).partition("@")[0]
    variables["PBS_O_HOST"] = host()
    return variables


def _job(
    request: Request, facts: Mapping[str, Any], number: int, element: int | None, directory: str, most: int | None
) -> FakeJob:
    identity = job_id(number, element)
    home = facts["variables"]["PBS_O_HOME"]
    cores = facts["chunk"].get("ncpus", "1")
    environment = {
        **facts["variables"],
        "HOME": home,
        "LOGNAME": facts["user"],
        "USER": facts["user"],
        "SHELL": facts["shell"] or "/bin/bash",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": facts["variables"].get("PBS_O_LANG", "C"),
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "ENVIRONMENT": "BATCH",
        "PBS_JOBID": identity,
        "PBS_JOBNAME": facts["name"],
        "PBS_QUEUE": facts["queue"],
        "PBS_JOBDIR": home,
        "PBS_NODENUM": "0",
        "PBS_TASKNUM": "1",
        "PBS_MOMPORT": "15003",
        "NCPUS": facts["chunk"].get("ompthreads", cores),
        "OMP_NUM_THREADS": facts["chunk"].get("ompthreads", cores),
    }
    if element is not None:
        environment.update(PBS_ARRAY_INDEX=str(element), PBS_ARRAY_ID=job_id(number, is_array=True))
    stdout, stderr, deliver = _outputs(facts, identity, element, directory)
    walltime = facts["resources"].get("walltime")
    return FakeJob(
        number=number,
        element=element,
        name=facts["name"],
        argv=_argv(request, number, directory, is_login=facts["is_login"]),
        environment=environment,
        cwd=home if os.path.isdir(home) else "/",
        stdout=stdout,
        stderr=stderr,
        cores=facts["chunks"] * int(cores),
        time_limit_s=None if walltime is None else seconds_of(walltime),
        max_concurrent=most,
        state=QUEUED if facts["hold"] == "n" else HELD,
        submitted_at=facts["ctime"],
        facts={"deliver": deliver},
    )


def _argv(request: Request, number: int, directory: str, *, is_login: bool) -> list[str]:
    if request.command:
        # The execution daemon says 254 of what cannot be executed.
        is_there = os.access(request.command[0], os.X_OK)
        return request.command if is_there else ["/bin/sh", "-c", "exit 254"]
    folder = os.path.join(directory, "spool")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, f"{number}.SC")
    if not os.path.exists(path):
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(request.script or "")
        os.chmod(path, 0o700)
    # The shell reads the script's name and runs it, as a child: a signal to the job ends this shell.
    return ["/bin/bash", "-lc" if is_login else "-c", '"$0"; exit "$?"', path]


def _outputs(
    facts: Mapping[str, Any], identity: str, element: int | None, directory: str
) -> tuple[str, str, dict[str, str]]:
    targets = {}
    for letter, suffix in (("o", "OU"), ("e", "ER")):
        path = facts["paths"][letter].replace(INDEX, str(element))
        targets[letter] = os.path.join(path, f"{identity}.{suffix}") if os.path.isdir(path) else path
    if facts["join"] == "oe":
        targets["e"] = targets["o"]
    elif facts["join"] == "eo":
        targets["o"] = targets["e"]
    deliver = {}
    for letter, suffix in (("o", "OU"), ("e", "ER")):
        if "d" in facts["keep"] or targets[letter] == "/dev/null":
            continue
        folder = os.path.join(directory, "spool")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        spooled = os.path.join(folder, f"{identity}.{suffix}")
        if targets["o"] == targets["e"]:
            spooled = os.path.join(folder, f"{identity}.OU")
        deliver[spooled] = targets[letter]
        targets[letter] = spooled
        if facts["join"] != "n":
            targets = {"o": spooled, "e": spooled}
            break
    return targets["o"], targets["e"], deliver
