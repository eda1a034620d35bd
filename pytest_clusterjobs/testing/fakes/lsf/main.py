"""The commands of the fake LSF."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from pytest_clusterjobs.testing.fakes.cluster import ENDED, HELD, QUEUED, RUNNING, FakeJob, Queue
from pytest_clusterjobs.testing.fakes.lsf import show
from pytest_clusterjobs.testing.fakes.lsf.cluster import (
    VERSIONS,
    FakeLsf,
    as_of,
    full_name,
    state_of,
    user_name,
    written_id,
)
from pytest_clusterjobs.testing.fakes.lsf.submit import bsub

_PATIENCE_S = 600.0
_USAGE = """\
Usage: bjobs [-h] [-V] [-w |-l |-UF] [-a] [-d] [-p] [-s] [-r] [-o] [-json] [-A]
             [-m host_name] [-q queue_name] [-u user_name | -u all]
             [-P project_name] [-N host_spec]
             [-J name_spec] [jobId | "jobId[idxList]" ...]
"""
_OLD_USAGE = _USAGE.replace(" |-UF", "").replace(" [-o] [-json]", "")
_SHADES = {"mbatchd": "batch system daemon not responding ... still trying", "hung": ""}
_LIM = "LSF daemon (LIM) not responding ... still trying"


def main(directory: str, argv: list[str]) -> int:
    """Run one command; ``argv[0]`` is its name."""
    cluster = FakeLsf(directory)
    with cluster.change() as queue:
        queue.record(argv)
    command, words = argv[0], argv[1:]
    if words[:1] == ["-V"]:
        with cluster.look() as queue:
            sys.stderr.write("" if command == "bsub" else VERSIONS[queue.setting("version")].title + "\n")
        return 0
    if command in ("bhist", "lsid"):
        return _READERS[command](cluster, words)
    with cluster.look() as queue:
        is_hung = queue.setting("outage") == "hung"
    if command == "bsub" and is_hung:  # what it was told, it does when it goes on, be bsub gone or not
        return _told_nevertheless(cluster, words)
    _reach(cluster)
    return _READERS[command](cluster, words)


def _told_nevertheless(cluster: FakeLsf, words: list[str]) -> int:
    with cluster.change() as queue:
        queue.set("lost_replies", int(queue.setting("lost_replies", 0)) + 1)
    return bsub(cluster, words)


def _reach(cluster: FakeLsf) -> None:
    """Wait while the daemons are away, as clients do."""
    deadline, said = time.monotonic() + _PATIENCE_S, ""
    while time.monotonic() < deadline:
        with cluster.look() as queue:
            outage = queue.setting("outage")
        if not outage:
            return
        message = _LIM if outage == "lim" else _SHADES[outage]
        if message and message != said:
            said = message
            sys.stderr.write(message + "\n")
            sys.stderr.flush()
        time.sleep(0.05)
    raise TimeoutError("the fake's daemons stayed away")


def _site(queue: Queue) -> show.Site:
    inactive = frozenset(each["name"] for each in queue.setting("queues") if each["status"].endswith("Inact"))
    return show.Site(user_name(), queue.setting("host"), VERSIONS[queue.setting("version")].is_ibm, inactive)


# ---------------------------------------------------------------- bjobs, bhist


def _chosen(queue: Queue | _Copy, ids: Iterable[str], ended_since: float) -> tuple[list[FakeJob], list[str]]:
    """Give the jobs that are named, and the words of those that are not there."""
    found: list[FakeJob] = []
    missing = []
    for word in ids:
        match = re.fullmatch(r"(\d+)(?:\[([\d,-]+)\])?", word)
        if not match:
            missing.append(f"{word}: Illegal job ID.")
            continue
        wanted = _indices(match[2])
        jobs = [
            job
            for job in queue.jobs(number=int(match[1]))
            if (wanted is None or job.element in wanted) and not (job.ended_at and job.ended_at < ended_since)
        ]
        found += jobs
        missing += [] if jobs else [f"Job <{word}> is not found"]
    return found, missing


def _indices(text: str | None) -> set[int] | None:
    if text is None:
        return None
    spans = (part.partition("-") for part in text.split(","))
    return {index for first, _, last in spans for index in range(int(first), int(last or first) + 1)}


class _Copy:
    """The queue as it was when the daemon last made a copy of it for those who ask."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self._moment = queue, float(queue.setting("copied_at") or time.time())

    def jobs(self, *, number: int | None = None) -> Iterator[FakeJob]:
        jobs = (as_of(job, self._moment) for job in self._queue.jobs(number=number))
        return (job for job in jobs if job is not None)


def _bjobs(cluster: FakeLsf, words: list[str]) -> int:
    with cluster.look() as queue:
        version = VERSIONS[queue.setting("version")]
        usage = _USAGE if version.has_json else _OLD_USAGE
        flags, valued = {"-a", "-w", "-l", "-r", "-p", "-d"}, {"-J", "-u", "-q", "-P"}
        if version.has_json:
            flags, valued = flags | {"-UF", "-json"}, valued | {"-o"}
        options: dict[str, str] = {}
        left = list(words)
        while left and left[0].startswith("-"):
            option = left.pop(0)
            if option not in flags | valued or (option in valued and not left):
                sys.stderr.write(f"bjobs: invalid option -- '{option[1:2]}'\n{usage}")
                return 255
            options[option] = left.pop(0) if option in valued else ""
        if "-json" in options and "-o" not in options:
            sys.stderr.write(usage)
            return 255
        fields = options.get("-o", "").split()
        site = _site(queue)
        if wrong := show.unknown_field(fields, site):
            sys.stderr.write(f"<{wrong.upper()}> in the format string is not a valid field name.\n")
            return 99
        oldest = time.time() - float(queue.setting("clean_period_s"))
        jobs, missing = _listed(_Copy(queue), left, options, oldest)
        return _print_jobs(jobs, missing, options, fields, site)


def _listed(queue: _Copy, ids: list[str], options: dict[str, str], oldest: float) -> tuple[list[FakeJob], list[str]]:
    if ids:
        return _chosen(queue, ids, oldest)
    jobs = [
        job
        for job in queue.jobs()
        if ("-p" not in options or state_of(job) in ("PEND", "PSUSP"))
        and (job.state != ENDED or ("-a" in options and (job.ended_at or 0) >= oldest))
        and options.get("-J") in (None, job.name, full_name(job))
    ]
    if jobs:
        return jobs, []
    if "-J" in options:
        return [], [f"Job <{options['-J']}> is not found"]
    kind = "job" if "-a" in options else "pending job" if "-p" in options else "unfinished job"
    return [], [f"No {kind} found"]


def _print_jobs(
    jobs: list[FakeJob], missing: list[str], options: dict[str, str], fields: list[str], site: show.Site
) -> int:
    code = 254 if any(line.startswith("No ") for line in missing) else 255 if missing else 0
    if "-json" in options and code != 254:
        records = [show.values(job, fields, site) for job in jobs]
        records += [{"JOBID": line[5 : line.index(">")], "ERROR": line} for line in missing if "<" in line]
        sys.stdout.write(show.as_json(records, site))
        return 0 if jobs else code
    if jobs:
        sys.stdout.write(_written(jobs, options, fields, site))
    sys.stderr.write("".join(f"{line}\n" for line in missing))
    return code


def _written(jobs: list[FakeJob], options: dict[str, str], fields: list[str], site: show.Site) -> str:
    if fields:
        return show.as_words([show.values(job, fields, site) for job in jobs], fields)
    if "-l" in options or "-UF" in options:
        return ("-" * 78 + "\n").join(show.long(job, site, is_unfolded="-UF" in options) for job in jobs)
    return show.waits(jobs, site) if "-p" in options else show.table(jobs, site, is_wide="-w" in options)


def _bhist(cluster: FakeLsf, words: list[str]) -> int:
    with cluster.look() as queue:
        site = _site(queue)
        jobs, missing = _chosen(queue, [word for word in words if not word.startswith("-")], 0.0)
    if not jobs or missing:
        print("No matching job found")
        return 255
    if "-l" in words:
        sys.stdout.write(("-" * 78 + "\n").join(show.history(job, site) for job in jobs))
        return 0
    print("Summary of time in seconds spent in various states:")
    print("JOBID   USER    JOB_NAME  PEND    PSUSP   RUN     USUSP   SSUSP   UNKWN   TOTAL")
    for job in jobs:
        pending, running, total = show.spans(job)
        columns = "".join(f"{column:<8}" for column in (pending, 0, running, 0, 0, 0, total))
        print(f"{written_id(job):<7} {site.user:<7} {full_name(job):<9} {columns}  ")
    print()
    return 0


# ---------------------------------------------------------------- bkill


def _bkill(cluster: FakeLsf, words: list[str]) -> int:
    left, name = [], ""
    rest = iter(words)
    for word in rest:
        if word == "-J":
            name = next(rest, "")
        elif word == "-s":
            next(rest, "")
        elif not word.startswith("-"):
            left.append(word)
    with cluster.look() as queue:
        if left in ([], ["0"]):  # all of them
            named = [job for job in queue.jobs() if name in ("", job.name)]
            left = [written_id(job) for job in named if job.state != ENDED]
            if not left:
                sys.stderr.write("".join(f"Job <{written_id(job)}>: Job has already finished\n" for job in named))
                return 255
        verdicts = [_verdict(queue, word) for word in left]
    doomed = [job for jobs, _, _ in verdicts for job in jobs]
    _note_who(cluster, doomed)
    cluster.delete(job.key for job in doomed)
    for _, said, is_error in verdicts:
        (sys.stderr if is_error else sys.stdout).write(said)
    return 255 if any(is_error for _, _, is_error in verdicts) else 0


def _note_who(cluster: FakeLsf, jobs: Iterable[FakeJob]) -> None:
    with cluster.change() as queue:
        for number, element in {job.key for job in jobs}:
            job = queue.job(number, element)
            if job is not None and job.state in (QUEUED, HELD):
                job.facts["killed_at"] = time.time()
                queue.save(job)


def _verdict(queue: Queue, word: str) -> tuple[list[FakeJob], str, bool]:
    """Tell which jobs a word names that can be killed, what is said of them, and whether that is an error."""
    jobs, missing = _chosen(queue, [word], time.time() - float(queue.setting("clean_period_s")))
    if missing:
        is_id = missing[0].startswith("Job <")
        return [], f"Job <{word}>: No matching job found\n" if is_id else f"{missing[0]}\n", True
    living = [job for job in jobs if state_of(job) not in ("DONE", "EXIT")]
    if not living:
        return [], f"Job <{word}>: Job has already finished\n", True
    if "[" in word:
        ended = [job for job in jobs if job not in living]
        said = "".join(f"Job <{written_id(job)}> is being terminated\n" for job in living)
        late = "".join(f"Job <{written_id(job)}>: Job has already finished\n" for job in ended)
        return living, said + late, False
    if jobs[0].element is not None and all(job.state in (QUEUED, HELD) for job in living):
        return living, f"Job <{word}>: Operation is in progress\n", True  # and yet it is done
    return living, f"Job <{word}> is being terminated\n", False


# ---------------------------------------------------------------- the site


def _lsid(cluster: FakeLsf, words: list[str]) -> int:
    with cluster.look() as queue:
        print(f"{VERSIONS[queue.setting('version')].title}\n")
        if queue.setting("outage") == "lim":
            sys.stdout.flush()
            sys.stderr.write("ls_getclustername(): LIM is down; try later\n")
            return 255
        print(f"My cluster name is {queue.setting('cluster')}\nMy master name is {queue.setting('host')}")
    return 0


def _bqueues(cluster: FakeLsf, words: list[str]) -> int:
    with cluster.look() as queue:
        names = [word for word in words if not word.startswith("-")]
        known = queue.setting("queues")
        if unknown := next((name for name in names if name not in [each["name"] for each in known]), None):
            sys.stderr.write(f"{unknown}: No such queue\n")
            return 255
        chosen = [each for each in known if not names or each["name"] in names]
        default = queue.setting("default_queue")
        living = list(queue.jobs(QUEUED, HELD, RUNNING))
    if "-l" not in words:
        print("QUEUE_NAME      PRIO STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN  SUSP ")
    for number, each in enumerate(chosen):
        mine = [state_of(job) for job in living if job.facts["queue"] == each["name"]]
        waiting, running = len([word for word in mine if word != "RUN"]), mine.count("RUN")
        if "-l" in words:
            print("-" * 79 if number else "", end="\n" if number else "")
            _print_queue(each, each["name"] == default)
        else:
            status = (" " * ((18 - len(each["status"])) // 2) + each["status"]).ljust(20)
            counts = f"{len(mine):>6}{waiting:>6}{running:>6}{0:>6}"
            print(f"{each['name']:<15} {each['priority']:>3}{status}-    -    -    -{counts}")
    return 0


def _print_queue(each: dict[str, object], is_default: bool) -> None:
    described = "  -- default  This is the default queue." if is_default else "  -- No description provided."
    print(f"\nQUEUE: {each['name']}\n{described}\n\nPARAMETERS/STATISTICS")
    print("PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV ")
    print(f"{each['priority']:>3}    0  {each['status']:<17} -    -    -    -     0     0     0     0     0    0")
    print("Schedule delay for a new job is 0 seconds\nInterval for a host to accept two jobs is 0 seconds")
    if each["run_limit_min"] is not None:
        limit = f"{float(str(each['run_limit_min'])):.1f} min"
        print(f"\nMAXIMUM LIMITS:\n {'RUNLIMIT':<24}\n {limit:<24}")
    print(f"\nSCHEDULING PARAMETERS\n{show.SCHEDULING}\nUSERS:  all\nHOSTS:  all\n")


def _bhosts(cluster: FakeLsf, words: list[str]) -> int:
    with cluster.look() as queue:
        slots, used = int(queue.setting("slots", 1)), queue.used_cores()
        status = "closed" if used >= slots else "ok"
        print("HOST_NAME          STATUS       JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV ")
        counts = f"{slots:>7}{used:>7}{used:>7}{0:>7}{0:>7}{0:>7}"
        print(f"{queue.setting('host'):<18} {status:<13}   -{counts}")
    return 0


def _lshosts(cluster: FakeLsf, words: list[str]) -> int:
    with cluster.look() as queue:
        print("HOST_NAME      type    model  cpuf ncpus maxmem maxswp server RESOURCES")
        print(f"{queue.setting('host'):<13} linux  IntelI5 100.0{queue.setting('slots'):>6} 24105M      -    Yes (cs)")
    return 0


def _bparams(cluster: FakeLsf, words: list[str]) -> int:
    with cluster.look() as queue:
        if "-l" not in words and "-a" not in words:
            print(f"Default Queues:  {queue.setting('default_queue')}")
            for what, seconds in (("Dispatch", 1), ("Checking", 1), ("Accepting", 0)):
                print(f"Job {what} Interval:  {seconds} seconds")
            return 0
        for about, name, value in (
            ("System default queues for automatic queue selection", "DEFAULT_QUEUE", queue.setting("default_queue")),
            (
                "The amount of time during which finished jobs are kept in core",
                "CLEAN_PERIOD",
                f"{queue.setting('clean_period_s'):.0f} (seconds)",
            ),
            ("The maximum number of jobs in a job array.", "MAX_JOB_ARRAY_SIZE", queue.setting("max_array")),
            ("Mbatchd reserves resources based on job tasks", "RESOURCE_RESERVE_PER_TASK", "N"),
        ):
            print(f"\n{about}{'' if about.endswith('.') else ':'}\n    {name} = {value}")
        print()
    return 0


_READERS: dict[str, Callable[[FakeLsf, list[str]], int]] = {
    "bsub": bsub,
    "bjobs": _bjobs,
    "bhist": _bhist,
    "bkill": _bkill,
    "bqueues": _bqueues,
    "bhosts": _bhosts,
    "lshosts": _lshosts,
    "lsid": _lsid,
    "bparams": _bparams,
}
