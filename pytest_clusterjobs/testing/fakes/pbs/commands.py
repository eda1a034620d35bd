"""The commands: qsub, qstat, qdel, qselect, pbsnodes, qmgr. Their words and exit codes are those of the recordings."""

from __future__ import annotations

import getopt
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_clusterjobs.testing.fakes.cluster import ENDED, ENDING, RUNNING, Queue
from pytest_clusterjobs.testing.fakes.pbs import formats
from pytest_clusterjobs.testing.fakes.pbs.request import Refusal, admit, read_request
from pytest_clusterjobs.testing.fakes.pbs.show import Server, Shown, parse_id
from pytest_clusterjobs.testing.fakes.pbs.site import PBS_VERSION, FakePbs, host, job_id

_UNKNOWN, _FINISHED, _BAD_ELEMENT, _NO_QUEUE, _ILLEGAL = 153, 35, 156, 170, 1
_NO_DAEMON, _BAD_STATE = 222, 168
_FINISHED_ELEMENT = 55  # PBSE_NOHISTARRAYSUBJOB, 15159, modulo 256 as all others
_NO_ANSWER = 1
# The real ones wait without end; whoever calls them loses patience earlier.
_PATIENCE_S = 600
_TABLE = "Job id            Name             User              Time Use S Queue"
_RULE = "----------------  ---------------- ----------------  -------- - -----"
_WIDE = "Job id                         Name            User             Time Use S Queue"
_WIDE_RULE = "-----------------------------  --------------- ---------------  -------- - ---------------"


def main(directory: str, argv: Sequence[str]) -> int:
    """Run one of the commands; ``argv[0]`` says which. Gives its exit code."""
    command, words = argv[0], list(argv[1:])
    if words == ["--version"]:
        print(f"pbs_version = {PBS_VERSION}")
        return 0
    cluster = FakePbs(directory)
    try:
        _reach(cluster, command, argv)
        return int(_COMMANDS[command](cluster, words))
    except Refusal as refusal:
        sys.stdout.flush()
        sys.stderr.write(str(refusal))
        return refusal.code


def _reach(cluster: FakePbs, command: str, argv: Sequence[str]) -> None:
    """Wait while the server hangs; complain when it is not there."""
    with cluster.change() as queue:
        queue.record(argv)
        state, is_newest = queue.setting("server", "up"), Server(queue).is_newest
    deadline = time.monotonic() + _PATIENCE_S
    while state == "hung" and time.monotonic() < deadline:
        time.sleep(0.05)
        with cluster.look() as queue:
            state = queue.setting("server", "up")
    if state == "down":
        said, code = _DOWN[command]
        if command == "qstat" and "json" in argv:
            _write_json({}, is_newest=is_newest)
        raise Refusal(code, f"Connection refused\n{said.format(host=host())}\n")


_DOWN = {
    "qstat": ("qstat: cannot connect to server {host} (errno=15010)", 255),
    "qsub": ("qsub: cannot connect to server {host} (errno=15010)", 162),
    "qdel": ("Couldn't connect to cluster: {host}", 162),
    "qselect": ("qselect: cannot connect to server {host} (errno=15010)", 162),
    "pbsnodes": ("pbsnodes: cannot connect to server {host}, error=15010", 1),
    "qmgr": ("qmgr: cannot connect to server ", 3),
}


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


# ---------------------------------------------------------------- qsub


def _qsub(cluster: FakePbs, words: list[str]) -> int:
    has_script = "--" in words or any(os.path.isfile(word) for word in words[-1:])
    request = read_request(words, "" if has_script else sys.stdin.read())
    with cluster.change() as queue:
        identity = admit(queue, request, _user(), cluster.directory)
        to_lose = int(queue.setting("lost_replies", 0))
        if to_lose:
            queue.set("lost_replies", to_lose - 1)
    if to_lose:
        time.sleep(_PATIENCE_S)
        return _NO_ANSWER
    print(identity)
    return 0


# ---------------------------------------------------------------- qstat


def _qstat(cluster: FakePbs, words: list[str]) -> int:
    options, names = getopt.gnu_getopt(words, "aBD:F:fGHiJMnpQqrsTtu:wx1E")
    chosen = {option[1:]: value for option, value in options}
    with cluster.look() as queue:
        server = Server(queue)
        if "B" in chosen:
            return _site(server, chosen, "Server", {host(): server.server()})
        if "Q" in chosen:
            return _site(server, chosen, "Queue", _queues(server, names))
        return _jobs(server, chosen, [name for name in names if name])


def _site(server: Server, chosen: Mapping[str, str], kind: str, things: Mapping[str, dict[str, Any]]) -> int:
    if chosen.get("F") == "json":
        _write_json({kind: things}, is_newest=server.is_newest)
    elif "f" in chosen:
        for name, attributes in things.items():
            sys.stdout.write(formats.text(f"{kind}: ", name, attributes, is_wide="w" in chosen))
    else:
        raise Refusal(2, "qstat: this fake shows servers and queues with -f alone\n")
    return 0


def _queues(server: Server, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    queues = server.queues()
    for name in names:
        if name not in queues:
            raise Refusal(_NO_QUEUE, f"qstat: Unknown queue {name}\n")
    return {name: queues[name] for name in names or queues}


def _jobs(server: Server, chosen: Mapping[str, str], names: Sequence[str]) -> int:
    shown: list[Shown] = []
    complaints: list[tuple[int, str]] = []
    is_history = "x" in chosen or "H" in chosen
    for name in names or [job_id(number, is_array=server.is_array(number)) for number in server.numbers()]:
        try:
            shown += _asked(server, name, with_elements="t" in chosen, is_history=is_history, is_listing=not names)
        except Refusal as refusal:
            complaints.append((refusal.code, str(refusal)))
    _write_jobs(server, chosen, shown, is_by_id=bool(names))
    sys.stdout.flush()
    sys.stderr.write("".join(f"qstat: {text}\n" for _, text in complaints))
    return complaints[-1][0] if complaints else 0


def _asked(server: Server, name: str, *, with_elements: bool, is_history: bool, is_listing: bool) -> list[Shown]:
    """Give what is known under one id.

    Raises:
        Refusal: Nothing, or only in the history that was not asked for.
    """
    parsed = parse_id(name)
    if parsed is None:
        is_queue = "." not in name and not name[:1].isdigit()
        raise Refusal(
            _NO_QUEUE if is_queue else _ILLEGAL,
            f"Unknown queue destination {name}" if is_queue else f"illegally formed job identifier: {name}",
        )
    number, element, _ = parsed
    full = name if "." in name else f"{name}.{host()}"
    if is_history and not server.has_history:
        raise Refusal(0, f"PBS is not configured to maintain job history {full}")
    found = list(server.shown(number, with_elements=with_elements)) if element is None else []
    if element is not None and (one := server.element(number, element)):
        found = [one]
    if not found:
        raise Refusal(_UNKNOWN, f"Unknown Job Id {full}")
    if found[0].word == "F" and not is_history:
        if is_listing:
            return []
        if not server.has_history:
            raise Refusal(_UNKNOWN, f"Unknown Job Id {full}")
        raise Refusal(_FINISHED, f"{full} Job has finished, use -x or -H to obtain historical job information")
    return found


def _write_jobs(server: Server, chosen: Mapping[str, str], shown: Sequence[Shown], *, is_by_id: bool) -> None:
    if "f" not in chosen:
        _write_table(shown, is_wide="w" in chosen)
    elif chosen.get("F") == "json":
        # The newest version gives only the first of several jobs that are named.
        first = {each.identity.partition("[")[0] for each in shown[:1]}
        kept = [each for each in shown if each.identity.partition("[")[0] in first]
        jobs = {each.identity: each.attributes for each in (kept if server.is_newest and is_by_id else shown)}
        _write_json({"Jobs": jobs} if jobs else {}, is_newest=server.is_newest)
    elif chosen.get("F") == "dsv":
        for each in shown:
            sys.stdout.write(formats.dsv(each.identity, each.attributes, chosen.get("D", "|")))
    else:
        for each in shown:
            sys.stdout.write(formats.text("Job Id: ", each.identity, each.attributes, is_wide="w" in chosen))


def _write_table(shown: Sequence[Shown], *, is_wide: bool) -> None:
    if not shown:
        return
    print(_WIDE if is_wide else _TABLE)
    print(_WIDE_RULE if is_wide else _RULE)
    for each in shown:
        user = each.attributes["Job_Owner"].partition("@")[0]
        used = each.attributes.get("resources_used", {}).get("cput", "0")
        name, queue = each.attributes["Job_Name"], each.attributes["queue"]
        if is_wide:
            print(f"{each.identity[:30]:<30} {name[:15]:<15} {user[:15]:<15}  {used:>8} {each.word} {queue:<15}")
        else:
            print(f"{each.identity[:17]:<17} {name[:16]:<16} {user[:16]:<16}  {used:>8} {each.word} {queue:<16}")


def _write_json(parts: Mapping[str, Any], *, is_newest: bool) -> None:
    document = {"timestamp": int(time.time()), "pbs_version": PBS_VERSION, "pbs_server": host(), **parts}
    sys.stdout.write(formats.json_document(document, is_strict=is_newest))


# ---------------------------------------------------------------- qdel, qselect, pbsnodes, qmgr


def _qdel(cluster: FakePbs, words: list[str]) -> int:
    options, names = getopt.gnu_getopt(words, "xW:")
    is_forgetting = any(option == "-x" for option, _ in options)
    is_forced = ("-W", "force") in options
    keys: list[tuple[int, int | None]] = []
    complaints: list[tuple[int, str]] = []
    with cluster.change() as queue:
        is_newest = Server(queue).is_newest
        for name in names:
            try:
                keys += _within_reach(queue, name, _to_delete(queue, name, is_forgetting), is_forced)
            except Refusal as refusal:
                complaints.append((refusal.code, str(refusal)))
    cluster.delete(keys)
    if is_forgetting:
        with cluster.change() as queue:
            for key in keys:
                if (job := queue.job(*key)) and job.state == ENDED:
                    queue.forget(job)
    sys.stderr.write("".join(f"qdel: {text}\n" for _, text in complaints[: 1 if is_newest else None]))
    return complaints[-1][0] if complaints else 0


def _within_reach(
    queue: Queue, name: str, keys: list[tuple[int, int | None]], is_forced: bool
) -> list[tuple[int, int | None]]:
    """Give those of some jobs that can be deleted; by force, also what runs on a node that is down.

    Raises:
        Refusal: The daemon of its node does not answer, or it is ending already.
    """
    is_down = queue.setting("node", "up") != "up"
    for key in keys:
        job = queue.job(*key)
        if job is not None and job.state == ENDING and len(keys) == 1 and not is_forced:
            raise Refusal(_BAD_STATE, f"Request invalid for state of job {job_id(*key)}")
        if job is not None and job.state == RUNNING:
            if is_down and not is_forced:
                raise Refusal(_NO_DAEMON, f"Server could not connect to MOM {name if '.' in name else job_id(*key)}")
            queue.set(f"kill {job.number}", is_forced)
            queue.set(f"lost {job.number}", is_down)
    return keys


def _to_delete(queue: Queue, name: str, is_forgetting: bool) -> list[tuple[int, int | None]]:
    parsed = parse_id(name)
    if parsed is None:
        if name[:1].isdigit() and "[" in name:
            raise Refusal(_BAD_ELEMENT, f"Invalid request {name}")
        raise Refusal(_ILLEGAL, f"illegally formed job identifier: {name}")
    number, element, _ = parsed
    full = name if "." in name else f"{name}.{host()}"
    jobs = list(queue.jobs(number=number))
    if not jobs or (all(job.state == ENDED for job in jobs) and not queue.setting("history", True)):
        raise Refusal(_UNKNOWN, f"Unknown Job Id {full}")
    if element is not None:
        is_over = all(job.state == ENDED for job in jobs)
        jobs = [job for job in jobs if job.element == element]
        if not jobs:
            raise Refusal(_BAD_ELEMENT, f"Invalid request {full}")
        if jobs[0].state == ENDED and not is_over:
            raise Refusal(_FINISHED_ELEMENT, f"Request invalid for finished array subjob {full}")
    if all(job.state == ENDED for job in jobs) and not is_forgetting:
        raise Refusal(_FINISHED, f"Job has finished {full}")
    return [job.key for job in jobs]


def _qselect(cluster: FakePbs, words: list[str]) -> int:
    options, _ = getopt.getopt(words, "a:A:c:h:HJl:N:p:P:q:r:s:t:Tu:x")
    chosen = {option[1:]: value for option, value in options}
    users = [each.partition("@")[0] for each in chosen.get("u", "").split(",") if each]
    with cluster.look() as queue:
        server = Server(queue)
        for number in server.numbers():
            one = next(server.shown(number, with_elements=False))
            if (
                (one.word != "F" or ("x" in chosen and server.has_history))
                and (not users or one.attributes["Job_Owner"].partition("@")[0] in users)
                and one.attributes["Job_Name"] == chosen.get("N", one.attributes["Job_Name"])
                and one.attributes["queue"] == chosen.get("q", one.attributes["queue"])
                and one.word in chosen.get("s", one.word)
            ):
                print(one.identity)
    return 0


def _pbsnodes(cluster: FakePbs, words: list[str]) -> int:
    options = {option[1:]: value for option, value in getopt.getopt(words, "aF:")[0]}
    with cluster.look() as queue:
        server = Server(queue)
        node = server.node()
    if options.get("F") == "json":
        _write_json({"nodes": {host(): node}}, is_newest=server.is_newest)
        return 0
    node["jobs"] = ", ".join(node.get("jobs", ()))
    node["last_state_change_time"] = time.strftime(
        "%a %b %d %H:%M:%S %Y", time.localtime(node["last_state_change_time"])
    )
    print(host())
    for name, value in formats.flat(node):
        if value:
            print(f"     {name} = {value}")
    print()
    return 0


def _qmgr(cluster: FakePbs, words: list[str]) -> int:
    with cluster.look() as queue:
        server = Server(queue).server()
    if words[:1] != ["-c"] or words[1:] not in (["list server"], ["l s"]):
        raise Refusal(1, "qmgr: this fake knows -c 'list server' alone\n")
    print(f"Server {host()}")
    for name, value in formats.flat(server):
        print(f"    {name} = {value}")
    return 0


_COMMANDS = {
    "qsub": _qsub,
    "qstat": _qstat,
    "qdel": _qdel,
    "qselect": _qselect,
    "pbsnodes": _pbsnodes,
    "qmgr": _qmgr,
}
