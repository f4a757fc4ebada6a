"""The boot order: a part opens after all parts that it needs, and closes before them.

No part waits for the network to open. If redirect or proxy fails, the agent hands over; others restart.
"""

import logging
import os
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from exclave.cluster.member_cluster import MemberCluster, open_member_cluster
from exclave.config import Config
from exclave.confirm.confirm import open_confirm
from exclave.daemon.address_move import AddressMover
from exclave.daemon.loaded import report_loaded
from exclave.daemon.parts import Parts
from exclave.daemon.wanted_rules import open_steering
from exclave.data_path.observer import open_data_path
from exclave.dns.server import open_dns
from exclave.ending import Ending
from exclave.errors import ClusterError, HostError
from exclave.firewall.observer import open_firewall
from exclave.identity.rotator import open_identity
from exclave.kit.formats.x509 import read_blocks
from exclave.kit.systemd.sd_notify import notify
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now
from exclave.link.layout import dns_address
from exclave.link.link import open_link
from exclave.listing.serving import open_listing
from exclave.member.client import MemberClient, open_member
from exclave.member.record import MembershipRecord, trusted_cas
from exclave.member.state import Standing
from exclave.proxy.instance import Proxy, open_proxy
from exclave.proxy.process.binary import find_proxy_user
from exclave.redirect.keepalive import open_keepalive
from exclave.redirect.kernel.nft import find_active, find_armed
from exclave.redirect.private_table import open_private_table
from exclave.redirect.reconciler import Redirect, open_redirect, open_table
from exclave.redirect.source_routing import open_source_routing
from exclave.swap.swap import open_swap
from exclave.workload_api.server import open_workload_api

log = logging.getLogger(__name__)


async def serve(parts: Parts, config: Config, now: Now) -> None:
    """Run the parts of this member until an ending is requested, then close them. Raises HostError, ConfigError."""
    record, endings, paths = parts.record, parts.endings, config.paths
    access = record.access_through(paths.state, config.cluster, os.environ)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        parts.cluster = cluster = await enter(
            open_member_cluster(access, paths.state, record.accounts_namespace, record.account, endings, now)
        )
        parts.membership = member = await enter(open_member(record, config, cluster, endings, now))
        parts.identity = identity = await enter(open_identity(paths.state, member, endings, now))
        user = await find_proxy_user(config.proxy.user)
        parts.workload_api = workload_api = await enter(
            open_workload_api(
                paths.runtime / "workload.sock", identity.svid, partial(_anchors, member), frozenset({user.uid})
            )
        )
        parts.private = await enter(open_private_table(user.uid, endings))  # before the link that it protects
        parts.link = await enter(open_link(endings))
        parts.routing = await enter(open_source_routing(member.captured, endings))
        await enter(open_table(endings))
        await enter(open_keepalive(paths.runtime, endings))
        parts.names = names = await enter(open_dns(dns_address(), member.settings))
        active = await find_active()
        parts.proxy = proxy = await enter(
            open_proxy(
                config.proxy, paths.runtime, member, identity, workload_api.path, names.address, active, endings, now
            )
        )
        parts.data_path = data_path = await enter(open_data_path(member, identity, proxy, now))
        parts.confirming = confirming = await enter(open_confirm(paths.state, member, await find_armed()))
        parts.steering = steering = await enter(
            open_steering(config.redirect, member, proxy, data_path, confirming, cluster.server_addresses, active)
        )
        parts.redirect = redirect = await enter(open_redirect(steering.policy, paths.runtime, endings))
        parts.firewall = firewall = await enter(open_firewall(member.settings, member.captured))
        parts.swap = await enter(open_swap(config.proxy, member, proxy, steering.trial, redirect))
        parts.listing = await enter(
            open_listing(
                config.listing, member, identity, proxy, redirect, firewall, data_path, confirming, endings, now
            )
        )  # opened last, closed first: pods find this machine only while it serves
        async with open_bare_nursery() as nursery:
            for name, part in (
                ("CA of the API server", partial(_follow_ca, paths.state, record, member, cluster)),
                ("loaded", partial(report_loaded, member, identity, proxy)),
                ("rules shown", partial(_show_rules, redirect, proxy)),
                ("rules judged", partial(_judge, data_path.rules, redirect.problem, parts.routing.problem)),
                ("link judged", partial(_judge, data_path.link, parts.link.problem)),
                ("eviction", partial(_end_when_evicted, parts, member)),
                ("new address", AddressMover(member, proxy, redirect, config.listing.drain).run),
                ("walk", partial(_end_when_walking, parts, member)),
            ):
                nursery.start_soon(supervise, name, part)
            notify("READY=1")
            parts.ending = await endings.wait()
            nursery.cancel_scope.cancel()
        if parts.ending is Ending.LEAVE:
            _begin_leave(paths.state, record, member, cluster)


def _anchors(member: MemberClient) -> tuple[bytes, ...]:
    settings = member.settings.value
    return read_blocks(settings.anchors) if settings is not None else ()


async def _follow_ca(state: Path, record: MembershipRecord, member: MemberClient, cluster: MemberCluster) -> None:
    """Trust the CAs that the controller publishes before the API server uses them."""
    async for _ in member.settings.changes():
        _trust(state, record, cluster)


def _trust(state: Path, record: MembershipRecord, cluster: MemberCluster) -> None:
    try:
        cluster.trust(trusted_cas(state, record))
    except ClusterError as problem:
        log.warning("%s", problem)


def _begin_leave(state: Path, record: MembershipRecord, member: MemberClient, cluster: MemberCluster) -> None:
    _trust(state, record, cluster)  # also the CA of a join that replaces this membership
    if member.standing.value is not Standing.EVICTED:
        member.mark_leaving()


async def _show_rules(redirect: Redirect, proxy: Proxy) -> None:
    async for observed in redirect.observed.changes():
        proxy.observe_rules(observed.instance)


async def _judge(is_good: Latest[bool], *problems: Latest[HostError | None]) -> None:
    """Report to the data path whether there is no problem."""
    async with open_any_change(*problems) as change:
        async for _ in change.wakes():
            is_good.set(all(problem.value is None for problem in problems))


async def _end_when_evicted(parts: Parts, member: MemberClient) -> None:
    await member.standing.wait_for(lambda standing: standing is Standing.EVICTED)
    parts.endings.ask_nowait(Ending.LEAVE)


async def _end_when_walking(parts: Parts, member: MemberClient) -> None:
    # A proxy serves one address family, so an address of the other one needs a new boot.
    await member.needs_walk_back.wait_for(bool)
    log.info("this machine's address is one of another family: walking back, then starting again")
    parts.endings.ask_nowait(Ending.STOP)
