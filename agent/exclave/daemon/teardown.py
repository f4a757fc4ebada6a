"""Leaving and cleaning up without an agent: everything from cold, as often as one likes.

Rules: the order is the one of every way out: pods hear first, then the rules let go of what is new, then the proxy
ends, then rules and link go, and last of all the Member and what is on disk. What the cluster does not hear is said to
whoever asked; nothing of this machine's own is kept waiting for it.
"""

import logging
import signal
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
from exclave.kit.host.gated import HeldProcess
from exclave.kit.tasks.wall_clock import Now
from exclave.link.layout import INSTANCES
from exclave.link.link import remove_link
from exclave.listing.withdraw import walk_back
from exclave.member.client import open_member
from exclave.member.facts import forget_boot_identity
from exclave.member.record import (
    MembershipRecord,
    forget_eviction,
    forget_join,
    forget_membership,
    load_join,
    load_membership,
)
from exclave.milestones import Leaving, Withdrawing, log_milestone
from exclave.proxy.process.logfile import remove_output
from exclave.proxy.process.records import RecordFile
from exclave.redirect.keepalive import remove_keepalive
from exclave.redirect.kernel.nft import drain_table, remove_table
from exclave.redirect.reconciler import AppliedRecord

log = logging.getLogger(__name__)


async def depart(record: MembershipRecord, config: Config, now: Now) -> list[str]:
    """Leave the mesh without the parts of an agent; what could not be undone in the cluster, for a person.

    Raises HostError if rules, proxies or link stay; the machine is a member then, told to leave.
    """
    endings = EndingSwitch()
    state = config.paths.state
    remains = [f"Member {record.namespace}/{record.member}"]
    try:
        async with open_member_cluster(
            record.access, state, record.accounts_namespace, record.account, endings, now
        ) as cluster:
            async with open_member(record, config, cluster, endings, now) as member:
                member.mark_leaving()
                await walk_back(member, Ending.LEAVE, config.listing.drain)
                await clean_up(config)
                endings.ask_nowait(Ending.LEAVE)  # not before: while rules stand, this machine can leave once more
            remains = member.remains
    except HostError as problem:  # without a credential nobody listens
        log.warning("%s", problem)
        await clean_up(config)
    forget_everything(config.paths)
    return remains


def forget_everything(paths: Paths) -> None:
    """Remove what makes this machine a member, and what a join has left. Raises HostError."""
    state = paths.state
    forget_boot_identity(paths.runtime)
    remove_identity(state)
    forget_answers(state)
    remove(state / CREDENTIAL)
    log_milestone(Leaving.CREDENTIAL)
    forget_join(state)
    forget_eviction(state)
    forget_unconfirmed(state)
    forget_membership(state)


def forget_remnants(paths: Paths) -> None:
    """Remove what is left of a membership that has gone, should a leave have been cut off there. Raises HostError.

    While a join is under way, what is there is its own.
    """
    if not _has_remnants(paths.state):
        return
    try:
        with hold_join_lock(paths.runtime):
            if not _has_remnants(paths.state):
                return  # the join that they belong to has ended
            log.info("a leave was cut off at its end: what it has left is removed")
            forget_boot_identity(paths.runtime)
            remove_identity(paths.state)
            forget_answers(paths.state)
            remove(paths.state / CREDENTIAL)
    except HostError as problem:
        if problem.fault is not Fault.ANOTHER_AGENT:
            raise


def _has_remnants(state: Path) -> bool:
    is_nobodys = load_membership(state) is None and load_join(state) is None
    return is_nobodys and any((state / name).exists() for name in (CREDENTIAL, SERVER_ADDRESSES, SVID, NEXT_KEY))


def hold_join_lock(runtime: Path) -> AbstractContextManager[None]:
    """Hold what a join, and all that removes the files of one, holds meanwhile. Raises HostError if another does."""
    return hold_lock(runtime / "join.lock", "another exclave join or leave", "wait until it is done, or end it")


async def clean_up(config: Config) -> list[str]:
    """Take away rules, proxies, keepalive process and link, whatever is there; what was found. Raises HostError.

    Rules that cannot be withdrawn keep the proxies that serve them; a record that cannot be written keeps nothing.
    """
    runtime = config.paths.runtime
    done: list[str] = []
    problems: list[HostError] = []
    await drain_table()  # first: what the proxies still serve is served to its end
    with _noted(problems):
        await _end_proxies(runtime, config.proxy.drain, done)
    await remove_table()
    done.append("rules removed")
    with _noted(problems):
        AppliedRecord(runtime).remove()
    with _noted(problems):
        if (pid := await remove_keepalive(runtime)) is not None:
            done.append(f"keepalive process {pid} ended")
    await remove_link()
    done.append("link removed")
    with _noted(problems):
        _forget_leavings(runtime)
    if problems:
        raise problems[0]
    return done


def _forget_leavings(runtime: Path) -> None:
    """Remove what an agent that was killed had in the runtime folder for its proxies. Raises HostError."""
    for name in ("resolv.conf", "workload.sock"):
        remove(runtime / name)
    for instance in INSTANCES:
        remove_output(runtime, instance)


@contextmanager
def _noted(problems: list[HostError]) -> Iterator[None]:
    """Go on whatever goes wrong inside, and keep it."""
    try:
        yield
    except HostError as problem:
        problems.append(problem)


async def _end_proxies(runtime: Path, drain: float, done: list[str]) -> None:
    """End the proxies on record, all at once, and no others; `done` is told of each."""
    records = RecordFile(runtime)
    async with trio.open_nursery() as nursery:
        for record, process in records.find_running().values():
            nursery.start_soon(_end_proxy, process, drain)
            done.append(f"proxy process {record.pid} ended")
    for instance in records.read():
        remove_output(runtime, instance)
        records.drop(instance)
        log_milestone(Withdrawing.ENDED)


async def _end_proxy(process: HeldProcess, drain: float) -> None:
    try:
        process.send(signal.SIGTERM)
        log_milestone(Withdrawing.TERMINATED)
        with trio.move_on_after(drain) as patience:
            await process.wait_end()
        if patience.cancelled_caught:
            process.send(signal.SIGKILL)
            await process.wait_end()
    finally:
        process.close()
