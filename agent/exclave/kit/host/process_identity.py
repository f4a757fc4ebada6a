"""Whether a process is the one that was recorded. Pure.

Pid, kernel start ticks, boot and executable must all match: pids are used again. A package upgrade replaces the
executable's file, and the kernel then calls the old one deleted: that is still a match.
"""

from dataclasses import dataclass
from typing import Any

_DELETED = " (deleted)"


@dataclass(frozen=True)
class ProcessRecord:
    """A process when it was recorded. `start_ticks`: from boot to its start."""

    pid: int
    start_ticks: int
    boot_id: str
    executable: str


def parse_process(tree: Any) -> ProcessRecord:
    """Read a record from parsed JSON; keys of a newer agent are ignored. Raises ValueError if it is damaged."""
    try:
        return ProcessRecord(int(tree["pid"]), int(tree["start_ticks"]), str(tree["boot_id"]), str(tree["executable"]))
    except (KeyError, OverflowError, TypeError) as problem:
        raise ValueError(f"process record: {problem} is missing or wrong") from None


@dataclass(frozen=True)
class ProcessView:
    """What the kernel reports of a process now."""

    start_ticks: int
    executable: str


def mismatch(record: ProcessRecord, boot_id: str, found: ProcessView | None) -> str | None:
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
