"""`instances.json` on disk, and the processes that it names. Blocking: small files in /run and /proc.

A record is on disk before its process passes its gate (see kit/host/gated). A record without its process is removed.
"""

import logging
from pathlib import Path

from exclave.kit.host.files import remove, write_atomic
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
"""The programs that a child runs before it becomes the proxy; see `spawn`."""


class RecordFile:
    """The file in one runtime folder."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / FILE

    def read(self) -> dict[Instance, InstanceRecord]:
        """The records; none if the file is absent or damaged."""
        try:
            return parse_instances(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as problem:
            log.warning("proxy: %s cannot be read, so nothing is adopted: %s", self._path, problem)
            return {}

    def add(
        self, instance: Instance, pid: int, executable: str, environment: str, binary: BinaryId | None = None
    ) -> InstanceRecord:
        """Record a child that still waits at its gate. Raises HostError if the file cannot be written."""
        recorded = make_record(pid, executable)
        record = InstanceRecord(pid, recorded.start_ticks, recorded.boot_id, executable, environment, binary)
        self._write({**self.read(), instance: record})
        return record

    def drop(self, instance: Instance) -> None:
        """Remove the record of an instance."""
        self._write({name: record for name, record in self.read().items() if name != instance})

    def find_running(self) -> dict[Instance, tuple[InstanceRecord, HeldProcess]]:
        """The recorded instances whose process runs, with that process. Records without their process are removed."""
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
        """Whether a recorded process was released and has not become the proxy yet.

        The agent may have been killed in that moment. A few milliseconds later the process is a proxy like any other.
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
    """The kernel's name of the running executable: the file itself, or the interpreter of a script."""
    with binary.open("rb") as file:
        interpreter = interpreter_of(file.read(256))
    return str(Path(interpreter or binary).resolve())
