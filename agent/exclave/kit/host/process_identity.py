"""Decides whether a process is the recorded one. Pids are reused: start ticks, boot and executable must match. Pure."""

from dataclasses import dataclass
from typing import Any

_DELETED = " (deleted)"


@dataclass(frozen=True)
class ProcessRecord:
    """A process when it was recorded. `start_ticks`: from the boot to its start."""

    pid: int
    start_ticks: int
    boot_id: str
    executable: str


def parse_process(tree: Any) -> ProcessRecord:
    """Read a record from parsed JSON; a newer agent's keys are ignored. Raises ValueError if it is damaged."""
    try:
        return ProcessRecord(int(tree["pid"]), int(tree["start_ticks"]), str(tree["boot_id"]), str(tree["executable"]))
    except (KeyError, OverflowError, TypeError) as problem:
        raise ValueError(f"process record: {problem} is missing or wrong") from None


@dataclass(frozen=True)
class ProcessView:
    """The process as the kernel reports it now."""

    start_ticks: int
    executable: str


def mismatch(record: ProcessRecord, boot_id: str, found: ProcessView | None) -> str | None:
    """The reason why the process with the recorded pid is another one; None if it is the same.

    After a package upgrade the kernel calls the replaced executable deleted: it still matches.
    """
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
    """Field 22 of /proc/<pid>/stat: ticks from the boot to the process's start. Raises ValueError.

    Source: proc_pid_stat(5). Field 2, the program's name in brackets, may contain blanks and brackets.
    """
    _, bracket, rest = stat.rpartition(")")
    fields = rest.split()
    if not bracket or len(fields) < 20:
        raise ValueError("/proc/<pid>/stat has another form than expected")
    return int(fields[19])
