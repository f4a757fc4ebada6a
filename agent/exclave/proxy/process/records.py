"""`instances.json` on disk, and the kernel's word on the processes in it. Blocking: small files in /run and /proc.

A record is whole on disk before its process passes its gate (see kit/host/gated). A record that matches no running
process is dropped, and no process is touched.
"""

import logging
from pathlib import Path

from exclave.kit.host.atomic import remove, write_atomic
from exclave.kit.host.gated import HeldProcess, adopt_process, make_record
from exclave.kit.host.process_identity import ProcessView, mismatch
from exclave.kit.host.procfs import read_boot_id, view_process
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
        recorded = make_record(pid, executable)
        record = InstanceRecord(pid, recorded.start_ticks, recorded.boot_id, executable, environment, program)
        self._write({**self.read(), instance: record})
        return record

    def drop(self, instance: Instance) -> None:
        """Take an instance off the record."""
        self._write({known: record for known, record in self.read().items() if known != instance})

    def find_ours(self) -> dict[Instance, tuple[InstanceRecord, HeldProcess]]:
        """Every instance on record whose process runs, with that process; the others are dropped."""
        found: dict[Instance, tuple[InstanceRecord, HeldProcess]] = {}
        for instance, record in self.read().items():
            process = adopt_process(record)
            if isinstance(process, str):
                log.info("proxy %s: not adopted: %s", instance, process)
                self.drop(instance)
            else:
                found[instance] = record, process
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
            if mismatch(record, boot_id, ProcessView(view.start_ticks, record.executable)) is None:
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
