"""The texts of a throw-away Grid Engine's configuration; pure functions.

bootstrap(5), sge_conf(5), sge_queue_conf(5), sge_pe(5), sched_conf(5), host_aliases(5), complex(5); for 8.1.9.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Offsets in the block of ports.
QMASTER_PORT, EXECD_PORT = 0, 1
#: Where Debian's and Ubuntu's packages put the programs and their libraries, and the rest.
PROGRAMS, SHARE = Path("/usr/lib/gridengine"), Path("/usr/share/gridengine")
#: The one parallel environment.
PARALLEL_ENVIRONMENT = "smp"
_HOST = "localhost"


@dataclass(frozen=True, slots=True)
class Site:
    """What the texts depend on besides the options."""

    directory: Path
    user: str

    @property
    def root(self) -> Path:
        """SGE_ROOT."""
        return self.directory / "root"

    @property
    def common(self) -> Path:
        """Where the cell's files are."""
        return self.root / "default" / "common"

    @property
    def spooling_parameters(self) -> str:
        """Where classic spooling keeps its files."""
        return f"{self.common};{self.directory}/spool/qmaster"


def host_aliases(names: Collection[str]) -> str:
    """Make ``localhost`` the one name of this machine, whatever /etc/hosts says: the first name counts."""
    return " ".join([_HOST, *sorted(set(names) - {_HOST})]) + "\n"


def bootstrap(site: Site) -> str:
    """Give the file ``bootstrap``."""
    # With "none" as admin_user an ordinary user's execd is refused: "request ... does not match credentials".
    return f"""\
admin_user {site.user}
default_domain none
ignore_fqdn true
spooling_method classic
spooling_lib libspoolc
spooling_params {site.spooling_parameters}
binary_path {PROGRAMS}
qmaster_spool_dir {site.directory}/spool/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""


def configuration(site: Site, template: str) -> str:
    """Give the global configuration: the package's, with what makes the cluster quick and keeps it private."""
    changed = {
        "execd_spool_dir": f"{site.directory}/spool/execd",
        "min_uid": "0",
        "min_gid": "0",
        "mailer": "/bin/true",
        # A login shell would run the user's profile before each job, and a job may be deleted in the middle of it.
        "login_shells": "none",
        "administrator_mail": "none",
        "load_report_time": "00:00:01",
        "max_unheard": "00:01:00",
        "reporting_params": "accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00 "
        "accounting_flush_time=00:00:00",
        # Without INHERIT_ENV=false jobs would have the environment of our execd.
        "execd_params": "ENABLE_ADDGRP_KILL=TRUE,PDC_INTERVAL=1,INHERIT_ENV=FALSE",
    }
    return _with(template, changed)


def scheduler(current: str) -> str:
    """Give the scheduler's configuration: it looks at once after a submission or an end, and keeps its reasons."""
    changed = {
        "schedule_interval": "0:0:1",
        "flush_submit_sec": "1",
        "flush_finish_sec": "1",
        "schedd_job_info": "true",
        "load_formula": "slots",
        "job_load_adjustments": "NONE",
        "maxujobs": "0",
    }
    return _with(current, changed)


def consumable_memory(template: str) -> str:
    """Give the complex ``h_vmem`` as most sites have it: counted for each slot, with a default."""
    return _with(template, {"consumable": "YES", "default": "256M"})


def host(slots: int, memory_bytes: int) -> str:
    """Give the execution host."""
    return f"""\
hostname {_HOST}
load_scaling NONE
complex_values h_vmem={memory_bytes // 2**20}M,slots={slots}
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
"""


def parallel_environment() -> str:
    """Give the parallel environment: all slots on one host."""
    return f"""\
pe_name {PARALLEL_ENVIRONMENT}
slots 9999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""


def queue(site: Site, name: str, slots: int, max_time_s: float | None) -> str:
    """Give a queue over the one host. The jobs' TMPDIRs are named by their numbers, which every cluster begins at 1."""
    limit = "INFINITY" if max_time_s is None else str(math.ceil(max_time_s))
    unlimited = "".join(
        f"{kind}_{what} INFINITY\n"
        for what in ("cpu", "fsize", "data", "stack", "core", "rss", "vmem")
        for kind in ("s", "h")
    )
    return f"""\
qname {name}
hostlist {_HOST}
seq_no 0
load_thresholds NONE
suspend_thresholds NONE
nsuspend 1
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
ckpt_list NONE
pe_list {PARALLEL_ENVIRONMENT}
rerun FALSE
slots {slots}
tmpdir {site.directory}/scratch
shell /bin/sh
prolog NONE
epilog NONE
shell_start_mode posix_compliant
starter_method NONE
suspend_method NONE
resume_method NONE
terminate_method NONE
notify 00:00:02
owner_list NONE
user_lists NONE
xuser_lists NONE
subordinate_list NONE
complex_values NONE
projects NONE
xprojects NONE
calendar NONE
initial_state default
s_rt INFINITY
h_rt {limit}
{unlimited}"""


def _with(text: str, changed: Mapping[str, str]) -> str:
    """Replace the values of some keys."""
    for key, value in changed.items():
        text = re.sub(rf"^{key}\s.*$", lambda _, line=f"{key} {value}": line, text, count=1, flags=re.MULTILINE)  # type: ignore[misc]
    return text
