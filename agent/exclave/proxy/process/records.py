"""`instances.json`: records of the proxy's processes, for the next agent to adopt. Blocking, but the file is small."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.host.gated import HeldProcess, adopt_process, make_record
from exclave.kit.host.process_identity import ProcessRecord, ProcessView, mismatch, parse_process
from exclave.kit.host.procfs import read_boot_id, view_process
from exclave.link.layout import INSTANCES, Instance
from exclave.proxy.process.binary import BinaryId

log = logging.getLogger(__name__)

FILE = "instances.json"

LAUNCHERS = frozenset({"unshare", "setpriv", "mount", "sh", "bash", "busybox", "dash"})
"""The programs that a child executes before the proxy; see `launcher`."""


@dataclass(frozen=True)
class InstanceRecord(ProcessRecord):
    """A process of an instance. `environment`: a digest. `program`: the binary; older agents did not record it.

    `unit`: for a unit's process, else "". `invocation`: identifies the unit's start; "" until that is known.
    `anchors`: sha256 of the trust anchors that it was started with; `version`: what it runs; "" if unknown.
    """

    environment: str
    program: BinaryId | None = None
    unit: str = ""
    invocation: str = ""
    anchors: str = ""
    version: str = ""


def render_instances(records: Mapping[Instance, InstanceRecord]) -> str:
    """The file's text."""
    return json.dumps({instance: asdict(record) for instance, record in sorted(records.items())}, indent=2) + "\n"


def parse_instances(text: str) -> dict[Instance, InstanceRecord]:
    """Parse the file. Raises ValueError if it is damaged; a newer agent's keys are ignored."""
    tree = parse_json(text)
    if not isinstance(tree, dict):
        raise ValueError("instances: a JSON object was expected")
    return {instance: _parse_record(tree[instance]) for instance in INSTANCES if instance in tree}


def _parse_record(tree: Any) -> InstanceRecord:
    process = parse_process(tree)
    try:
        program = tree.get("program")
        binary = None if program is None else BinaryId(str(program["stamp"]), str(program["digest"]))
        environment = str(tree["environment"])
        unit, invocation = str(tree.get("unit", "")), str(tree.get("invocation", ""))
        anchors, version = str(tree.get("anchors", "")), str(tree.get("version", ""))
        return InstanceRecord(
            **asdict(process),
            environment=environment,
            program=binary,
            unit=unit,
            invocation=invocation,
            anchors=anchors,
            version=version,
        )
    except (KeyError, TypeError) as problem:
        raise ValueError(f"instances: {problem} is missing or wrong") from None


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
        self,
        instance: Instance,
        pid: int,
        executable: str,
        environment: str,
        binary: BinaryId | None = None,
        anchors: str = "",
        version: str = "",
    ) -> InstanceRecord:
        """Record a child that still waits at its gate. Raises HostError if the file cannot be written."""
        process = asdict(make_record(pid, executable))
        record = InstanceRecord(**process, environment=environment, program=binary, anchors=anchors, version=version)
        self.store(instance, record)
        return record

    def store(self, instance: Instance, record: InstanceRecord) -> None:
        """Write a record. Raises HostError if the file cannot be written."""
        self._write({**self.read(), instance: record})

    def drop(self, instance: Instance) -> None:
        """Remove the record of an instance."""
        self._write({name: record for name, record in self.read().items() if name != instance})

    def find_running(self) -> dict[Instance, tuple[InstanceRecord, HeldProcess]]:
        """The recorded children that run, with their processes. Records of others are removed, those of units stay."""
        found: dict[Instance, tuple[InstanceRecord, HeldProcess]] = {}
        for instance, record in self.read().items():
            if record.unit:
                continue
            try:
                process = adopt_process(record)
            except PermissionError:
                # An agent with more rights started it as its child. It keeps its slot.
                log.warning("proxy %s: process %d can only be ended by: exclave cleanup", instance, record.pid)
                continue
            if isinstance(process, str):
                log.info("proxy %s: not adopted: %s", instance, process)
                self.drop(instance)
            else:
                found[instance] = record, process
        return found

    def has_starting_child(self) -> bool:
        """True if a recorded process was released, a few milliseconds ago, and has not executed the proxy yet."""
        boot_id = read_boot_id()
        for record in self.read().values():
            try:
                view = view_process(record.pid) if not record.unit else None
            except PermissionError:  # reported by `find_running`
                continue
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


def unit_record(
    unit: str, environment: str, binary: BinaryId | None, anchors: str = "", version: str = ""
) -> InstanceRecord:
    """The record of a unit before its start."""
    return InstanceRecord(0, 0, read_boot_id(), "", environment, binary, unit, anchors=anchors, version=version)


def find_executable(binary: Path) -> str:
    """The running executable as the kernel names it: the file itself, or a script's interpreter."""
    with binary.open("rb") as file:
        interpreter = interpreter_of(file.read(256))
    return str(Path(interpreter or binary).resolve())


def interpreter_of(head: bytes) -> str | None:
    """The interpreter of a script with these first bytes; None for any other file. Source: execve(2)."""
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n", 1)[0].split()
    return words[0].decode("utf-8", "surrogateescape") if words else None  # a path may not be UTF-8
