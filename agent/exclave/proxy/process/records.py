"""`instances.json` on disk, and the kernel's word on the processes in it. Blocking: small files in /run and /proc.

Rules: a record is whole on disk before its process passes its gate. Looking for a process holds it first and compares
then, so what was compared is what is held. A record that matches nothing is dropped, and its process left alone.
"""

import logging
import os
from pathlib import Path

from exclave.kit.host.atomic import remove, write_atomic
from exclave.kit.host.process_identity import ProcessView, why_foreign
from exclave.kit.host.procfs import open_pidfd, read_boot_id, view_process
from exclave.link.layout import Instance
from exclave.proxy.process.instances import (
    FILE,
    BinaryId,
    InstanceRecord,
    interpreter_of,
    parse_instances,
    render_instances,
)

log = logging.getLogger(__name__)

LAUNCHERS = frozenset({"unshare", "setpriv", "mount", "sh", "bash", "busybox", "dash"})
"""What a child is before it is the proxy, by name: see `launch`."""


class Records:
    """The file in one runtime folder."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / FILE

    def read(self) -> dict[Instance, InstanceRecord]:
        """What is on record; nothing if the file is absent or damaged."""
        try:
            return parse_instances(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as problem:
            log.warning("proxy: %s cannot be read, so nothing is adopted: %s", self._path, problem)
            return {}

    def add(
        self, instance: Instance, pid: int, executable: str, environment: str, program: BinaryId | None = None
    ) -> InstanceRecord:
        """Put a child that has not passed its gate on record. Raises HostError if the disk refuses."""
        view = view_process(pid)
        ticks = view.start_ticks if view is not None else 0  # it ended at once: a record that matches nothing
        record = InstanceRecord(pid, ticks, read_boot_id(), executable, environment, program)
        self._write({**self.read(), instance: record})
        return record

    def drop(self, instance: Instance) -> None:
        """Take an instance off the record."""
        self._write({known: record for known, record in self.read().items() if known != instance})

    def find_ours(self) -> dict[Instance, tuple[InstanceRecord, int]]:
        """Every instance on record whose process runs, with a pidfd of it; the others are dropped."""
        boot_id, found = read_boot_id(), {}
        for instance, record in self.read().items():
            pidfd = open_pidfd(record.pid)
            reason = why_foreign(record, boot_id, view_process(record.pid) if pidfd is not None else None)
            if reason is None and pidfd is not None:
                found[instance] = record, pidfd
                continue
            if pidfd is not None:
                os.close(pidfd)
            log.info("proxy %s: not adopted: %s", instance, reason)
            self.drop(instance)
        return found

    def has_starting_child(self) -> bool:
        """Whether a process on record has passed its gate, and is not the proxy yet.

        An agent may be killed right then; a few milliseconds later that process is a proxy like any other.
        """
        boot_id = read_boot_id()
        for record in self.read().values():
            view = view_process(record.pid)
            if view is None or Path(view.executable).name not in LAUNCHERS:
                continue
            if why_foreign(record, boot_id, ProcessView(view.start_ticks, record.executable)) is None:
                return True
        return False

    def _write(self, records: dict[Instance, InstanceRecord]) -> None:
        if records:
            write_atomic(self._path, render_instances(records).encode())
        else:
            remove(self._path)


def find_executable(binary: Path) -> str:
    """What the kernel will call the program once it runs: the file itself, or a script's interpreter."""
    with binary.open("rb") as file:
        interpreter = interpreter_of(file.read(256))
    return str(Path(interpreter or binary).resolve())
