"""The texts of a throw-away Slurm's configuration files; pure functions.

slurm.conf(5), slurmdbd.conf(5), cgroup.conf(5); for Slurm 22.05 to 26.05.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_clusterjobs.core.errors import ConfigError

#: Offsets in the block of ports.
CONTROLLER_PORT, DATABASE_DAEMON_PORT, FIRST_NODE_PORT = 0, 1, 2

_PARTITION_FORMS = '"NAME", "NAME:MAXTIME" or "NAME:MAXTIME:TIER"; MAXTIME is minutes, HH:MM:SS, D-HH:MM:SS or INFINITE'
_PARTITION = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z0-9_-]{0,31})"
    # No MM:SS: "1:30" could as well be one minute and tier 30.
    r"(?::(?P<max_time>\d+-\d+(?::\d+:\d+)?|\d+:\d+:\d+|\d+|INFINITE|UNLIMITED)(?::(?P<tier>\d{1,5}))?)?"
)
_MAX_TIME, _TIER = "INFINITE", 10
_CONF_LINE = re.compile(r"(?P<key>[A-Za-z][A-Za-z0-9_]*)\s*=\s*\S[^\r\n]*")


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition over all nodes."""

    name: str
    #: As Slurm writes it; it rounds up to whole minutes.
    max_time: str = _MAX_TIME
    #: PriorityTier: jobs of a higher one requeue jobs of a lower one when they need their place.
    tier: int = _TIER

    @classmethod
    def parse(cls, text: str) -> Partition:
        """Read ``NAME[:MAXTIME[:TIER]]``.

        Raises:
            ConfigError: It is something else; the message shows the forms.
        """
        match = _PARTITION.fullmatch(text)
        if match is None or int(match["tier"] or 0) > 65533 or match["name"].upper() in ("ALL", "DEFAULT"):
            raise ConfigError(f"partition {text!r} cannot be read; write {_PARTITION_FORMS}")
        return cls(match["name"], match["max_time"] or _MAX_TIME, int(match["tier"] or _TIER))


@dataclass(frozen=True, slots=True)
class Site:
    """What the files depend on besides the options."""

    directory: Path
    cluster_name: str
    first_port: int
    user: str
    #: What the machine calls itself, up to the first dot.
    host: str
    #: (22, 5) for 22.05.8.
    version: tuple[int, int]
    #: "munge" or "none".
    auth: str


def conf_line_key(text: str) -> str:
    """Give the key of a line for slurm.conf, in lower case as Slurm compares them.

    Raises:
        ConfigError: It is not one ``Key=value`` line.
    """
    match = _CONF_LINE.fullmatch(text.strip())
    if match is None or text.rstrip(" \t").endswith(("\\", "\n", "\r")):
        raise ConfigError(f"{text!r} is no line of slurm.conf: write Key=value on one line, without a final backslash")
    return match["key"].lower()


def _auth_lines(site: Site) -> list[str]:
    # A requeued job may start again only after cred_expire; Slurm refuses less than 5 s and then takes 120.
    if site.auth == "munge":
        return ["AuthType=auth/munge", f"AuthInfo=socket={site.directory}/run/munge.sock,cred_expire=5"]
    return ["AuthType=auth/none", "AuthInfo=cred_expire=5"]


def _accounting_lines(site: Site, *, accounting: bool) -> list[str]:
    if not accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    lines = [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={site.first_port + DATABASE_DAEMON_PORT}",
    ]
    if site.auth == "munge":  # slurmctld's link to slurmdbd does not read AuthInfo: it takes munge's socket from here
        lines.append(f"AccountingStoragePass={site.directory}/run/munge.sock")
    return lines


def _process_lines(*, cgroup: bool) -> list[str]:
    if cgroup:  # OverMemoryKill together with ConstrainRAMSpace is fatal to slurmctld
        return ["ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup", "JobAcctGatherParams=UsePss"]
    return [
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherParams=OverMemoryKill,UsePss",
    ]


def _place_lines(site: Site) -> list[str]:
    home = site.directory
    return [
        f"ClusterName={site.cluster_name}",
        f"SlurmctldHost={site.host}(127.0.0.1)",
        f"SlurmctldPort={site.first_port + CONTROLLER_PORT}",
        f"SlurmUser={site.user}",
        f"SlurmdUser={site.user}",
        f"StateSaveLocation={home}/state",
        f"SlurmdSpoolDir={home}/spool/%n",
        f"SlurmctldPidFile={home}/run/slurmctld.pid",
        f"SlurmdPidFile={home}/run/%n.pid",
        f"SlurmctldLogFile={home}/log/slurmctld.log",
        f"SlurmdLogFile={home}/log/%n.log",
        "JobCompType=jobcomp/filetxt",
        f"JobCompLoc={home}/log/jobcomp.txt",
    ]


# Chosen for short waits in tests; every line can be replaced with a conf line of the same key.
_TIMING_LINES = [
    "SchedulerType=sched/backfill",
    # Stock values start a job up to 3 s late: the scheduler batches submissions and looks for work every minute.
    "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_window=1440",
    "MessageTimeout=10",
    "TCPTimeout=2",
    "UnkillableStepTimeout=60",  # 24.11 wants at least five times MessageTimeout
    "SlurmdTimeout=15",
    "SlurmctldTimeout=30",
    "KillWait=2",
    "MinJobAge=600",
    "OverTimeLimit=0",
    "InactiveLimit=0",
]
_POLICY_LINES = [
    "SelectType=select/cons_tres",
    "SelectTypeParameters=CR_Core_Memory",
    "DefMemPerCPU=100",  # without it every job takes the memory of a whole node
    "SlurmdParameters=config_overrides",  # the nodes claim more than the machine has
    "JobAcctGatherType=jobacct_gather/linux",
    "JobAcctGatherFrequency=task=1",
    "PriorityType=priority/basic",
    "PreemptType=preempt/partition_prio",
    "PreemptMode=REQUEUE",
    "JobRequeue=1",
    "ReturnToService=2",
    "MpiDefault=none",
    "MailProg=/bin/true",  # a throw-away cluster writes to nobody
    "SwitchType=switch/none",
    "PropagateResourceLimits=NONE",
    "MaxArraySize=10001",
    "MaxJobCount=20000",
]


def slurm_conf(
    site: Site,
    *,
    nodes: int,
    cpus: int,
    memory_bytes: int,
    partitions: Sequence[Partition],
    accounting: bool,
    cgroup: bool,
    conf_lines: Sequence[str],
) -> str:
    """Give slurm.conf; a conf line takes the place of ours with the same key."""
    replaced = {conf_line_key(line) for line in conf_lines}
    lines = _place_lines(site) + _auth_lines(site) + _accounting_lines(site, accounting=accounting)
    lines += _process_lines(cgroup=cgroup) + _TIMING_LINES + _POLICY_LINES
    if site.auth == "none":
        lines.append("CredType=cred/none")
    lines = [line for line in lines if line.partition("=")[0].lower() not in replaced]
    first = site.first_port + FIRST_NODE_PORT
    lines.append(
        f"NodeName=n[1-{nodes}] NodeHostname={site.host} NodeAddr=127.0.0.1 Port=[{first}-{first + nodes - 1}] "
        f"CPUs={cpus} RealMemory={memory_bytes // 2**20} State=UNKNOWN"
    )
    lines += [_partition_line(partition, nodes, is_default=index == 0) for index, partition in enumerate(partitions)]
    return "\n".join([*lines, *conf_lines, ""])


def _partition_line(partition: Partition, nodes: int, *, is_default: bool) -> str:
    return (
        f"PartitionName={partition.name} Nodes=n[1-{nodes}] Default={'YES' if is_default else 'NO'} "
        f"MaxTime={partition.max_time} PriorityTier={partition.tier} State=UP"
    )


def cgroup_conf(site: Site, *, cgroup: bool) -> str | None:
    """Give cgroup.conf, or None when this version needs none."""
    is_new = site.version >= (23, 2)
    if not cgroup:  # newer daemons otherwise look for a cgroup hierarchy of their own, and refuse to start
        return "CgroupPlugin=disabled\n" if is_new else None
    lines = ["CgroupPlugin=cgroup/v1", "CgroupMountpoint=/sys/fs/cgroup"]
    lines += [] if is_new else ["CgroupAutomount=no"]
    return "\n".join([*lines, "ConstrainRAMSpace=yes", "ConstrainSwapSpace=yes", "AllowedSwapSpace=0", ""])


def slurmdbd_conf(site: Site, conf_lines: Sequence[str]) -> str:
    """Give slurmdbd.conf; the database is reached through its socket, ``localhost`` in MariaDB's words."""
    lines = [
        *_auth_lines(site),
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={site.first_port + DATABASE_DAEMON_PORT}",
        f"SlurmUser={site.user}",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        "StorageUser=root",
        "StorageLoc=slurm_acct",
        "CommitDelay=1",
        f"LogFile={site.directory}/log/slurmdbd.log",
        f"PidFile={site.directory}/run/slurmdbd.pid",
        # The one line that both files need: another installation's plugins.
        *(line for line in conf_lines if conf_line_key(line) == "plugindir"),
    ]
    return "\n".join([*lines, ""])
