"""A preview of `exclave leave`, read from this machine. It changes nothing, and needs no agent."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exclave.cluster.member_cluster import FILE as CREDENTIAL
from exclave.cluster.server_addresses import FILE as SERVER_ADDRESSES
from exclave.config import Paths
from exclave.confirm.confirm import FILE as UNCONFIRMED
from exclave.identity.storage import NEXT_KEY, SVID
from exclave.kit.host.gated import adopt_process
from exclave.link.layout import INSTANCES, KEEPALIVE_TABLE, PRIVATE_TABLE, TABLE
from exclave.link.link import find_link
from exclave.member.facts import BOOT
from exclave.member.record import AGAIN, ANSWER, EVICTION, JOIN, MEMBERSHIP, SETTINGS, load_membership
from exclave.proxy.process.logfile import output_files
from exclave.proxy.process.records import FILE as RECORDS
from exclave.proxy.process.records import RecordFile
from exclave.proxy.process.systemd import may_have_units, show_unit
from exclave.proxy.process.units import unit_files, unit_of
from exclave.redirect.keepalive import FILE as KEEPALIVE
from exclave.redirect.keepalive import find_keepalive
from exclave.redirect.kernel.nft import observe_table
from exclave.redirect.private_table import has_private_table
from exclave.redirect.reconciler import FILE as RULES
from exclave.redirect.source_routing import find_source_rules

STATE_FILES = (
    MEMBERSHIP, JOIN, CREDENTIAL, NEXT_KEY, SVID, SETTINGS, ANSWER, SERVER_ADDRESSES, EVICTION, UNCONFIRMED, AGAIN
)  # fmt: skip

RUNTIME_FILES = (BOOT, RECORDS, KEEPALIVE, RULES, "resolv.conf", "workload.sock")
"""Locks and the control socket belong to the agent, which goes on without a membership."""


@dataclass(frozen=True)
class LeavePreview:
    """The Member (`NAMESPACE/NAME`), and what is there now: processes (pids), tables, routing rules, links, files."""

    member: str | None
    processes: tuple[str, ...]
    tables: tuple[str, ...]
    rules: tuple[str, ...]
    links: tuple[str, ...]
    files: tuple[str, ...]

    def lines(self) -> list[str]:
        """One line for each."""
        cluster = [f"Member {self.member}, with its account, Lease and ExternalWorkload"] if self.member else []
        local = (
            ("process", self.processes),
            ("table", self.tables),
            ("routing rule", self.rules),
            ("link", self.links),
            ("file", self.files),
        )
        return [*cluster, *(f"{kind} {one}" for kind, found in local for one in found)]


async def preview_leave(paths: Paths) -> LeavePreview:
    """Read what a leave would remove. Raises HostError without permission, or if nft or ip cannot be used."""
    record = load_membership(paths.state)
    processes = [f"{pid} (proxy {instance})" for instance, pid in (await _proxies(paths.runtime)).items()]
    keepalive = find_keepalive(paths.runtime)
    if keepalive is not None:
        processes.append(f"{keepalive} (keepalive)")
    tables = [f"inet {TABLE}"] if (await observe_table()).installed else []
    if keepalive is not None:
        tables.append(f"inet {KEEPALIVE_TABLE}")
    if await has_private_table():
        tables.append(f"inet {PRIVATE_TABLE}")
    return LeavePreview(
        member=f"{record.namespace}/{record.member}" if record is not None else None,
        processes=tuple(processes),
        tables=tuple(tables),
        rules=await find_source_rules(),
        links=tuple("addresses of exclave on lo" if name == "lo" else name for name in await find_link()),
        files=tuple(str(path) for path in _files(paths) if path.exists()),
    )


async def _proxies(runtime: Path) -> dict[str, int]:
    """The pids of the instances that run."""
    found: dict[str, int] = {}
    records = RecordFile(runtime).read()
    for instance in INSTANCES:
        record = records.get(instance)
        if record is not None and not record.unit:
            process = adopt_process(record)
            if not isinstance(process, str):
                found[instance] = process.pid
                process.close()
        elif may_have_units() and (state := await show_unit(unit_of(instance))).is_running:
            found[instance] = state.pid
    return found


def _files(paths: Paths) -> Iterator[Path]:
    yield from (paths.state / name for name in STATE_FILES)
    yield from (paths.runtime / name for name in RUNTIME_FILES)
    yield from unit_files(paths.runtime)
    for instance in INSTANCES:
        yield from output_files(paths.runtime, instance)
