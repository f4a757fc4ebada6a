"""Finds the instances that an earlier agent has started: children by their records, units by their names."""

import logging
from dataclasses import replace
from pathlib import Path

from exclave.link.layout import INSTANCES, Instance
from exclave.proxy.process.held import ChildProcess, InstanceProcess
from exclave.proxy.process.logfile import output_path
from exclave.proxy.process.records import InstanceRecord, RecordFile, unit_record
from exclave.proxy.process.units import UnitProcess, find_process, forget_end, unit_of

log = logging.getLogger(__name__)


async def find_running(runtime: Path, *, has_units: bool) -> dict[Instance, tuple[InstanceRecord, InstanceProcess]]:
    """The instances that run, with their processes and records. Other records are removed. Raises HostError.

    `has_units`: units count although there is no record of them.
    """
    records = RecordFile(runtime)
    found: dict[Instance, tuple[InstanceRecord, InstanceProcess]] = {}
    for instance, (record, held) in records.find_running().items():
        found[instance] = record, ChildProcess(held, output_path(runtime, instance))
    stored = records.read()
    for instance in INSTANCES:
        former = stored.get(instance)
        is_recorded = former is not None and bool(former.unit)
        if instance in found or not (has_units or is_recorded):
            continue
        process = await find_process(instance)
        if process is not None:
            record = adopted_record(instance, former, process)
            records.store(instance, record)
            found[instance] = record, process
            continue
        if is_recorded:
            records.drop(instance)
        if (end := await forget_end(instance)) is not None:
            log.warning("proxy %s: while no agent ran, it %s", instance, end)
        elif is_recorded:
            log.info("proxy %s: not adopted: %s has no process", instance, unit_of(instance))
    return found


def adopted_record(instance: Instance, former: InstanceRecord | None, process: UnitProcess) -> InstanceRecord:
    """The record of an adopted unit. Without one of this start its digests are unknown, and so it will be replaced."""
    if former is None or not former.unit or former.invocation not in ("", process.invocation):
        former = unit_record(unit_of(instance), "", None)
    return replace(former, pid=process.pid, invocation=process.invocation)
