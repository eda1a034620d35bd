"""What the fake's server knows of jobs, of itself, its queues and its node: attributes in the real one's order."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pytest_clusterjobs.testing.fakes.cluster import DELETED, ENDED, ENDING, HELD, QUEUED, RUNNING, TIME_LIMIT, FakeJob
from pytest_clusterjobs.testing.fakes.cluster import Queue as Jobs
from pytest_clusterjobs.testing.fakes.pbs.request import clock
from pytest_clusterjobs.testing.fakes.pbs.site import (
    DEFAULT_QUEUE,
    INDEX,
    MEMORY,
    NEWEST,
    PBS_VERSION,
    QUEUES,
    host,
    job_id,
    kilobytes,
    never_runs,
    shared,
    total,
    used_gpus,
)

_WORDS = {HELD: ("H", 20), QUEUED: ("Q", 10), RUNNING: ("R", 41), ENDING: ("E", 50)}
_COMMON = ("Checkpoint", "Hold_Types")  # of these an element has none of its own
_TIME_FORMAT = "%a %b %d %H:%M:%S %Y"


@dataclass
class Shown:
    """A job, an array as a whole, or an element of one, as the server knows it."""

    #: Its id.
    identity: str
    #: One letter.
    word: str
    #: Its attributes in order.
    attributes: dict[str, Any]


def exit_status(job: FakeJob) -> int | None:
    """Give what PBS says for how a job ended; None when it never ran."""
    if job.cause == TIME_LIMIT:
        return -29
    if job.signal is not None:
        return 256 + job.signal
    return job.exit_code


class Server:
    """The server at one moment."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._facts: dict[int, dict[str, Any]] = {}
        #: True: finished jobs are kept.
        self.has_history = bool(jobs.setting("history", True))
        #: True: prints as the newest version does.
        self.is_newest = jobs.setting("version", NEWEST) == NEWEST

    def facts(self, number: int) -> dict[str, Any]:
        """Give what an array's elements have in common."""
        if number not in self._facts:
            self._facts[number] = shared(self._jobs, number)
        return self._facts[number]

    def numbers(self) -> list[int]:
        """Give the numbers of all jobs and arrays."""
        return [number for number in dict.fromkeys(job.number for job in self._jobs.jobs()) if self._known(number)]

    def _known(self, number: int) -> list[FakeJob]:
        """Give what is seen of an array's elements, or of the one job: at first nothing, where answers are kept."""
        unseen_s = float(self._jobs.setting("unseen_s", 0.0))
        if unseen_s and time.time() - self.facts(number).get("ctime", 0.0) < unseen_s:
            return []
        return list(self._jobs.jobs(number=number))

    def is_array(self, number: int) -> bool:
        """Tell whether a number is an array's."""
        return self.facts(number).get("array") is not None

    def shown(self, number: int, *, with_elements: bool) -> Iterator[Shown]:
        """Give a job; of an array the whole, and its elements if wanted."""
        jobs = self._known(number)
        if not jobs:
            return
        if not self.is_array(number):
            yield self._one(jobs[0], is_over=True)
            return
        is_over = all(job.state == ENDED for job in jobs)
        whole = self._array(number, jobs, is_over)
        yield whole
        if with_elements:
            for job in jobs:
                yield self._element(job, whole, is_over)

    def element(self, number: int, element: int) -> Shown | None:
        """Give one element of an array."""
        jobs = self._known(number)
        is_over = all(job.state == ENDED for job in jobs)
        one = next((job for job in jobs if job.element == element), None)
        return None if one is None else self._element(one, self._array(number, jobs, is_over), is_over)

    def _element(self, job: FakeJob, whole: Shown, is_over: bool) -> Shown:
        """Show an element; one of which the server keeps nothing with the array's attributes, but for two of them."""
        if job.started_at is not None and (job.state != ENDED or self.has_history):
            return self._one(job, is_over)
        word, _ = _WORDS.get(job.state, ("F" if is_over else "X", 0))
        attributes = dict(itertools.takewhile(lambda attribute: attribute[0] != "array", whole.attributes.items()))
        attributes["job_state"] = word
        if job.state == ENDED:
            how = "terminated" if job.cause == DELETED else "finished" if exit_status(job) == 0 else "failed"
            attributes["comment"] = f"Subjob {how}"
        return Shown(job_id(job.number, job.element), word, attributes)

    # ------------------------------------------------------------ one job

    def _one(self, job: FakeJob, is_over: bool) -> Shown:
        facts = self.facts(job.number)
        word, substate = _WORDS.get(job.state, ("F" if is_over else "X", 92))
        status = None if self._is_lost(job) else exit_status(job)
        if job.state == ENDED:
            substate = 91 if job.cause == DELETED else 92 if status == 0 else 93
        attributes = self._head(facts, job.number, word, job)
        attributes.update(self._times(facts, job))
        if job.state == ENDED and job.started_at and not self._is_lost(job):
            attributes["jobdir"] = job.cwd
        attributes["substate"] = substate
        attributes["Variable_List"] = self._variables(facts)
        if comment := self._comment(job, facts, status):
            attributes["comment"] = comment
        if facts["hold"] == "n":
            attributes["etime"] = date(facts["ctime"])
        if job.started_at or facts["hold"] == "s":
            attributes["run_count"] = 1 if job.started_at else 21
        if job.state == ENDED and status is not None:
            attributes.update({"Stageout_status": job.facts.get("stageout", 1), "Exit_status": status})
        return self._tail(job_id(job.number, job.element), word, attributes, facts, job)

    def _is_lost(self, job: FakeJob) -> bool:
        """Tell whether a job was deleted while nobody could ask its node about it."""
        return bool(self._jobs.setting(f"lost {job.number}", False))

    def _head(self, facts: dict[str, Any], number: int, word: str, job: FakeJob | None) -> dict[str, Any]:
        """Give the attributes up to ``Resource_List``; ``job`` None: of an array as a whole."""
        is_element = job is not None and job.element is not None
        changed = max(filter(None, (facts["ctime"], job and job.started_at, job and job.ended_at)))
        paths = dict(facts["paths"])
        if job is not None and job.element is not None:
            paths = {letter: path.replace(INDEX, str(job.element)) for letter, path in paths.items()}
        head: dict[str, Any] = {"Job_Name": facts["name"], "Job_Owner": f"{facts['user']}@{host()}"}
        if job is not None and job.state == ENDED and job.started_at and not self._is_lost(job):
            head["resources_used"] = {
                "cpupercent": 0,
                "cput": "00:00:00",
                "mem": "0kb",
                "ncpus": job.cores,
                "vmem": "0kb",
                "walltime": clock((job.ended_at or 0) - job.started_at),
            }
        head.update(job_state=word, queue=facts["queue"], server=host())
        if facts["account"]:
            head["Account_Name"] = facts["account"]
        head["Checkpoint"] = "u"
        head["ctime"] = date(facts["ctime"])
        head["Error_Path"] = f"{host()}:{paths['e']}"
        if job is not None and job.started_at:
            head["exec_host"] = f"{host()}/0" + (f"*{job.cores}" if job.cores > 1 else "")
            head["exec_vnode"] = f"({_vnode(facts)})"
        head.update(
            Hold_Types=facts["hold"],
            Join_Path=facts["join"],
            Keep_Files=facts["keep"],
            Mail_Points=facts["mail"],
            mtime=date(changed),
            Output_Path=f"{host()}:{paths['o']}",
            Priority=0,
            qtime=date(facts["ctime"]),
            Rerunable=str(facts["rerunable"]),
            Resource_List=facts["resources"],
        )
        return {key: value for key, value in head.items() if not (is_element and key in _COMMON)}

    def _times(self, facts: dict[str, Any], job: FakeJob) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if job.started_at:
            found["stime"] = date(job.started_at)
            if job.state == ENDED:
                found["obittime"] = date(job.ended_at or 0)
        if facts["shell"]:
            found["Shell_Path_List"] = facts["shell"]
        return found

    def _variables(self, facts: dict[str, Any]) -> dict[str, str]:
        variables = dict(facts["variables"])
        if self.is_newest:
            added = {"PBS_O_INTERACTIVE_AUTH_METHOD": "resvport", "PBS_O_INTERACTIVE_ENCRYPT_METHOD": ""}
            names = list(variables)
            after = names.index("PBS_O_SHELL") + 1
            variables = {
                **{name: variables[name] for name in names[:after]},
                **added,
                **{name: variables[name] for name in names[after:]},
            }
        return variables

    def _comment(self, job: FakeJob, facts: dict[str, Any], status: int | None) -> str:
        if job.started_at is None:
            said = self._why_not(job, facts)
            if job.state == ENDED:
                return f"{said or 'Not Running'} and terminated"
            return said
        begun = f"Job run at {_minute(job.started_at)} on ({_vnode(facts)})"
        if job.is_to_be_deleted or job.cause == DELETED:
            by = "" if job.element is not None or self._is_lost(job) else f" by {facts['user']}@{host()}"
            return f"{begun} and terminated{by}"
        if job.state != ENDED:
            return begun
        if job.cause == TIME_LIMIT:
            return f"{begun} and exceeded resource walltime"
        return f"{begun} and {'finished' if status == 0 else 'failed'}"

    def _why_not(self, job: FakeJob, facts: dict[str, Any]) -> str:
        if facts["hold"] == "s":
            return "job held, too many failed attempts to run"
        if facts["hold"] != "n" or not self._jobs.setting("is_scheduling", True):
            return ""
        if never := never_runs(self._jobs, facts):
            return f"Can Never Run: {never}"
        if not QUEUES[facts["queue"]][1]:
            return "Not Running: Queue not started."
        if self._jobs.setting("node", "up") != "up":
            return "Not Running: Not enough free nodes available"
        slots = int(self._jobs.setting("slots", 1))
        free = slots - self._jobs.used_cores()
        if job.cores > free:
            return f"Not Running: Insufficient amount of resource: ncpus (R: {job.cores} A: {free} T: {slots})"
        gpus, wanted = int(self._jobs.setting("gpus", 0)), total(facts, "ngpus")
        if wanted and wanted > gpus - used_gpus(self._jobs):
            free = gpus - used_gpus(self._jobs)
            return f"Not Running: Insufficient amount of resource: ngpus (R: {wanted} A: {free} T: {gpus})"
        return ""

    def _tail(
        self, identity: str, word: str, attributes: dict[str, Any], facts: dict[str, Any], job: FakeJob | None
    ) -> Shown:
        is_element = job is not None and job.element is not None
        if not is_element:
            attributes["Submit_arguments"] = facts["arguments"]
        if facts["executable"]:
            program, *arguments = facts["executable"]
            attributes["executable"] = f"<jsdl-hpcpa:Executable>{_xml(program)}</jsdl-hpcpa:Executable>"
            if arguments:
                attributes["argument_list"] = "".join(
                    f"<jsdl-hpcpa:Argument>{_xml(argument)}</jsdl-hpcpa:Argument>" for argument in arguments
                )
        if job is not None and job.element is not None:
            attributes.update(array_id=job_id(job.number, is_array=True), array_index=job.element)
        if job is None:
            attributes.update(facts["array_attributes"])
        ended = job.ended_at if job is not None else facts["ended_at"]
        if self.has_history and ended and word in "FX":
            attributes["history_timestamp"] = int(ended)
        attributes.update(project=facts["project"], Submit_Host=host())
        return Shown(identity, word, attributes)

    # ------------------------------------------------------------ an array as a whole

    def _array(self, number: int, jobs: list[FakeJob], is_over: bool) -> Shown:
        facts = dict(self.facts(number))
        started = [job.started_at for job in jobs if job.started_at]
        word, substate = ("Q", 10) if not started else ("B", 70)
        statuses = [exit_status(job) for job in jobs if job.state == ENDED]
        status = 0 if all(each == 0 for each in statuses) else 2
        ended_at = max((job.ended_at or 0 for job in jobs), default=0) if is_over else None
        if is_over:
            word, substate = "F", 92 if status == 0 else 93
        attributes = self._head(facts, number, word, None)
        comment = self._why_not(jobs[0], facts)
        if started:
            attributes["stime"] = date(min(started))
            comment = f"Job Array Began at {_minute(min(started))}"
        if ended_at:
            attributes["obittime"] = date(ended_at)
            comment += " and finished" if status == 0 else " and failed"
        if facts["shell"]:
            attributes["Shell_Path_List"] = facts["shell"]
        attributes.update(substate=substate, Variable_List=self._variables(facts))
        if comment.strip():
            attributes["comment"] = comment
        attributes["etime"] = date(facts["ctime"])
        if started:
            attributes.update(Stageout_status=1, Exit_status=status if is_over else 0)
        facts["array_attributes"] = _array_attributes(facts["array"], jobs)
        facts["ended_at"] = ended_at
        return self._tail(job_id(number, is_array=True), word, attributes, facts, None)

    # ------------------------------------------------------------ the site

    def server(self) -> dict[str, Any]:
        """Give the server's attributes."""
        roots = self._jobs.setting("acl_roots", "")
        words = Counter(job.state for job in self._jobs.jobs())
        return {
            "server_state": "Active",
            "server_host": host(),
            **({"acl_roots": roots} if roots else {}),
            "scheduling": str(bool(self._jobs.setting("is_scheduling", True))),
            "total_jobs": sum(words.values()) - (0 if self.has_history else words[ENDED]),
            "state_count": _state_count(words),
            "default_queue": DEFAULT_QUEUE,
            "log_events": 511,
            "mailer": "/usr/sbin/sendmail",
            "mail_from": "adm",
            "query_other_jobs": "True",
            "resources_default": {"ncpus": 1},
            "default_chunk": {"ncpus": 1},
            "resources_assigned": {"mem": "0mb", "ncpus": self._jobs.used_cores(), "nodect": 0},
            "scheduler_iteration": 5,
            "flatuid": "True",
            "resv_enable": "True",
            "node_fail_requeue": 310,
            "max_array_size": int(self._jobs.setting("max_array_size", 10_000)),
            "resend_term_delay": 5,
            "pbs_license_min": 0,
            "pbs_license_max": 2147483647,
            "pbs_license_linger_time": 31536000,
            "license_count": "Avail_Global:1000000 Avail_Local:1000000 Used:0 High_Use:0",
            "pbs_version": PBS_VERSION,
            "eligible_time_enable": "False",
            "job_history_enable": str(self.has_history),
            **({"job_history_duration": "24:00:00"} if self.has_history else {}),
            "max_concurrent_provision": 5,
            "clear_topjob_estimates_enable": "False",
            "max_job_sequence_id": 9999999,
        }

    def queues(self) -> dict[str, dict[str, Any]]:
        """Give every queue's attributes."""
        jobs = [(self.facts(job.number)["queue"], job.state) for job in self._jobs.jobs() if job.state != ENDED]
        found = {}
        for name, (is_enabled, is_started, limit) in QUEUES.items():
            words = Counter(state for queue, state in jobs if queue == name)
            found[name] = {
                "queue_type": "Execution",
                "total_jobs": sum(words.values()),
                "state_count": _state_count(words),
                **({"resources_max": {"walltime": limit}} if limit else {}),
                **({"resources_assigned": {"mem": "0mb", "ncpus": 0, "nodect": 0}} if name == DEFAULT_QUEUE else {}),
                "enabled": str(is_enabled),
                "started": str(is_started),
            }
        return found

    def node(self) -> dict[str, Any]:
        """Give the node's attributes, as JSON has them."""
        slots, gpus, used = int(self._jobs.setting("slots", 1)), self._jobs.setting("gpus", 0), self._jobs.used_cores()
        running = [job_id(job.number, job.element) for job in self._jobs.jobs(RUNNING, ENDING)]
        is_up = self._jobs.setting("node", "up") == "up"
        return {
            "Mom": host(),
            "ntype": "PBS",
            "state": "down" if not is_up else "free" if used < slots else "job-busy",
            "pcpus": slots,
            **({"jobs": [f"{identity}/0" for identity in running]} if running else {}),
            "resources_available": {
                "arch": "linux",
                "host": host(),
                "mem": MEMORY,
                "ncpus": slots,
                **({"ngpus": gpus} if gpus else {}),
                "vnode": host(),
            },
            "resources_assigned": {"ncpus": used} if used else {},
            **({} if is_up else {"comment": "node down: communication closed"}),
            "resv_enable": "True",
            "sharing": "default_shared",
            "license": "l",
            "last_state_change_time": int(self._jobs.setting("started_at", 0)),
        }


def _array_attributes(text: str, jobs: list[FakeJob]) -> dict[str, Any]:
    counts = Counter(job.state for job in jobs)
    waiting = [job.element for job in jobs if job.state in (QUEUED, HELD) and job.element is not None]
    count = (
        f"Queued:{counts[QUEUED] + counts[HELD]} Running:{counts[RUNNING]} "
        f"Exiting:{counts[ENDING]} Expired:{counts[ENDED]} "
    )
    submitted, _, most = text.partition("%")
    return {
        "array": "True",
        "array_state_count": count.strip(),
        "array_indices_submitted": submitted,
        "array_indices_remaining": _ranges(waiting),
        **({"max_run_subjobs": int(most)} if most else {}),
    }


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if first < last else str(first) for first, last in runs) or "-"


def _state_count(words: Counter[str]) -> str:
    return (
        f"Transit:0 Queued:{words[QUEUED]} Held:{words[HELD]} Waiting:0 Running:{words[RUNNING]} "
        f"Exiting:{words[ENDING]} Begun:0 "
    )


def _vnode(facts: dict[str, Any]) -> str:
    parts = [f"{host()}:ncpus={total(facts, 'ncpus')}"]
    if "mem" in facts["chunk"]:
        parts.append(f"mem={facts['chunks'] * kilobytes(facts['chunk']['mem'])}kb")
    if "ngpus" in facts["chunk"]:
        parts.append(f"ngpus={total(facts, 'ngpus')}")
    return ":".join(parts)


def date(moment: float) -> str:
    """Write a time as PBS does."""
    return time.strftime(_TIME_FORMAT, time.localtime(moment))


def _minute(moment: float) -> str:
    return time.strftime("%a %b %d at %H:%M", time.localtime(moment))


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def parse_id(text: str) -> tuple[int, int | None, bool] | None:
    """Read an id: number, element, whether it is an array as a whole; None when it is none of this server's."""
    match = re.fullmatch(r"(\d+)(\[(\d*)\])?(?:\.(.+))?", text)
    if not match or (match[4] is not None and match[4] != host()):
        return None
    return int(match[1]), int(match[3]) if match[3] else None, match[2] == "[]"
