"""`instances.json`: which processes are our proxies, so that the next agent adopts them. Pure.

Rules: a record is written before its process may become the proxy, so there is never a proxy without a record. A
process is ours if pid, kernel start ticks, boot and executable all match; anything less is neither used nor killed:
pids are used again, and start ticks tell two processes of one pid apart. The environment's digest decides nothing of
that; it says whether what runs is still what is wanted. A package upgrade replaces the executable's file, and the
kernel then calls the old one deleted: it is ours all the same.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exclave.redirect.layout import INSTANCES, Instance

FILE = "instances.json"

_DELETED = " (deleted)"


@dataclass(frozen=True)
class InstanceRecord:
    """One process that was launched as an instance. `start_ticks` is the kernel's, since boot."""

    pid: int
    start_ticks: int
    boot_id: str
    executable: str
    environment: str


@dataclass(frozen=True)
class ProcessView:
    """What the kernel says of a process now."""

    start_ticks: int
    executable: str


def render_instances(records: Mapping[Instance, InstanceRecord]) -> str:
    """The file's text."""
    return json.dumps({instance: asdict(record) for instance, record in sorted(records.items())}, indent=2) + "\n"


def parse_instances(text: str) -> dict[Instance, InstanceRecord]:
    """Read the file. Raises ValueError if it is damaged; keys of a newer agent are ignored."""
    tree = json.loads(text)
    if not isinstance(tree, dict):
        raise ValueError("instances: a JSON object was expected")
    return {instance: _record(tree[instance]) for instance in INSTANCES if instance in tree}


def why_foreign(record: InstanceRecord, boot_id: str, found: ProcessView | None) -> str | None:
    """Why the process with a record's pid is not the one that was recorded; None if it is."""
    if record.boot_id != boot_id:
        return "it was started before the last boot"
    if found is None:
        return f"process {record.pid} has ended"
    if found.start_ticks != record.start_ticks:
        return f"process {record.pid} was started at another time: its number was used again"
    if found.executable.removesuffix(_DELETED) != record.executable:
        return f"process {record.pid} runs {found.executable}, not {record.executable}"
    return None


def start_ticks_of(stat: str) -> int:
    """Field 22 of /proc/<pid>/stat: ticks from boot to the process's start. Raises ValueError.

    Source: proc_pid_stat(5). Field 2 is the program's name in brackets and may hold blanks and brackets itself.
    """
    _, bracket, rest = stat.rpartition(")")
    fields = rest.split()
    if not bracket or len(fields) < 20:
        raise ValueError("/proc/<pid>/stat has another form than expected")
    return int(fields[19])


def interpreter_of(head: bytes) -> str | None:
    """The interpreter that runs a script with these first bytes; None for other programs. Source: execve(2)."""
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n", 1)[0].split()
    return words[0].decode() if words else None


def _record(tree: Any) -> InstanceRecord:
    try:
        return InstanceRecord(
            int(tree["pid"]),
            int(tree["start_ticks"]),
            str(tree["boot_id"]),
            str(tree["executable"]),
            str(tree["environment"]),
        )
    except (KeyError, TypeError) as problem:
        raise ValueError(f"instances: {problem} is missing or wrong") from None
