"""Leaving and cleaning up without a running agent, from the files alone. Every step may be repeated.

The order: withdraw ports, capture nothing new, end proxies, remove rules and link, then Member and files.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import trio

from exclave.cluster.member_cluster import FILE as CREDENTIAL
from exclave.cluster.member_cluster import open_member_cluster
from exclave.cluster.server_addresses import FILE as SERVER_ADDRESSES
from exclave.cluster.server_addresses import forget_answers
from exclave.config import Config, Paths
from exclave.confirm.confirm import forget_unconfirmed
from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.identity.storage import NEXT_KEY, SVID, remove_identity
from exclave.kit.host.files import hold_lock, remove
from exclave.kit.tasks.wall_clock import Now
from exclave.link.layout import INSTANCES
from exclave.link.link import remove_link
from exclave.listing.serving import walk_back
from exclave.member import record as files
from exclave.member.client import open_member
from exclave.member.facts import forget_boot_identity
from exclave.member.record import MembershipRecord
from exclave.milestones import Leaving, Withdrawing, log_milestone
from exclave.proxy.process.adoption import find_running
from exclave.proxy.process.held import InstanceProcess, end_process
from exclave.proxy.process.logfile import remove_output
from exclave.proxy.process.records import RecordFile
from exclave.proxy.process.systemd import may_have_units
from exclave.proxy.process.units import remove_unit_files, stop_all
from exclave.redirect.keepalive import remove_keepalive
from exclave.redirect.kernel.nft import drain_table, remove_table
from exclave.redirect.private_table import remove_private_table
from exclave.redirect.reconciler import AppliedRecord
from exclave.redirect.source_routing import remove_source_rules

log = logging.getLogger(__name__)


async def depart(record: MembershipRecord, config: Config, now: Now) -> list[str]:
    """Leave the mesh without an agent's parts; returns what could not be undone in the cluster, for a person.

    Raises HostError if rules, proxies or link remain; the machine then stays a member that has to leave.
    """
    endings = EndingSwitch()
    state = config.paths.state
    remains = [f"Member {record.namespace}/{record.member}"]
    try:
        async with open_member_cluster(
            record.access_through(state, config.cluster, os.environ),
            state,
            record.accounts_namespace,
            record.account,
            endings,
            now,
        ) as cluster:
            async with open_member(record, config, cluster, endings, now) as member:
                member.mark_leaving()
                await walk_back(member, Ending.LEAVE, config.listing.drain)
                await clean_up(config)
                endings.ask_nowait(Ending.LEAVE)  # only now: while rules remain, the leave must be repeatable
            remains = member.remains
    except HostError as problem:  # without a credential the cluster accepts nothing
        log.warning("%s", problem)
        await clean_up(config)
    forget_everything(config.paths)
    return remains


def forget_everything(paths: Paths) -> None:
    """Remove the files of a membership and of a join. Raises HostError."""
    _forget_credentials(paths)
    log_milestone(Leaving.CREDENTIAL)
    files.forget_join(paths.state)
    files.forget_eviction(paths.state)
    forget_unconfirmed(paths.state)
    files.forget_membership(paths.state)


def forget_remnants(paths: Paths) -> None:
    """Remove the files that an interrupted leave left behind, unless a join uses them. Raises HostError."""
    if not _has_remnants(paths.state):
        return
    try:
        with hold_join_lock(paths.runtime):
            if not _has_remnants(paths.state):
                return  # the join that they belong to has ended
            log.info("a leave was cut off at its end: the files that it has left are removed")
            _forget_credentials(paths)
    except HostError as problem:
        if problem.fault is not Fault.ANOTHER_AGENT:
            raise


def _forget_credentials(paths: Paths) -> None:
    forget_boot_identity(paths.runtime)
    remove_identity(paths.state)
    forget_answers(paths.state)
    remove(paths.state / CREDENTIAL)


def _has_remnants(state: Path) -> bool:
    is_nobodys = files.load_membership(state) is None and files.load_join(state) is None
    return is_nobodys and any((state / name).exists() for name in (CREDENTIAL, SERVER_ADDRESSES, SVID, NEXT_KEY))


def hold_join_lock(runtime: Path) -> AbstractContextManager[object]:
    """Hold the lock for writing or removing the files of a join. Raises HostError if another process holds it."""
    return hold_lock(runtime / "join.lock", "another exclave join or leave", "wait until it is done, or end it")


async def clean_up(config: Config) -> list[str]:
    """Remove rules, proxies, keepalive process and link; returns what was removed. Raises HostError.

    If rules cannot be drained, their proxies stay. A file that cannot be removed does not stop the other steps.
    """
    runtime = config.paths.runtime
    done: list[str] = []
    problems: list[HostError] = []
    await drain_table()  # first: open connections are then served to their end
    with _noted(problems):
        await _end_proxies(runtime, config.proxy.drain, done)
    await remove_table()
    done.append("rules removed")
    with _noted(problems):
        AppliedRecord(runtime).remove()
    with _noted(problems):
        if (pid := await remove_keepalive(runtime)) is not None:
            done.append(f"keepalive process {pid} ended")
    await remove_source_rules()
    await remove_link()
    await remove_private_table()
    done.append("link removed")
    with _noted(problems):  # files of an agent that was killed, for its proxies
        for name in ("resolv.conf", "workload.sock"):
            remove(runtime / name)
        remove_unit_files(runtime)
        for instance in INSTANCES:
            remove_output(runtime, instance)
    if problems:
        raise problems[0]
    return done


@contextmanager
def _noted(problems: list[HostError]) -> Iterator[None]:
    """Catch a HostError and append it to `problems`, so that the next step runs."""
    try:
        yield
    except HostError as problem:
        problems.append(problem)


async def _end_proxies(runtime: Path, drain: float, done: list[str]) -> None:
    records = RecordFile(runtime)
    has_units = may_have_units()
    problems: list[HostError] = []
    async with trio.open_nursery() as nursery:
        for _, process in (await find_running(runtime, has_units=has_units)).values():
            nursery.start_soon(_end_proxy, process, drain, done, problems)
    if has_units:
        await stop_all()
    if problems:  # the records stay: a process that still runs is found by the next attempt
        raise problems[0]
    for instance in records.read():
        remove_output(runtime, instance)
        records.drop(instance)
        log_milestone(Withdrawing.ENDED)


async def _end_proxy(process: InstanceProcess, drain: float, done: list[str], problems: list[HostError]) -> None:
    try:
        with _noted(problems):
            await end_process(process, drain)
            done.append(f"proxy process {process.pid} ended")
    finally:
        process.close()
