"""Keeps routing rules by which replies from the private link leave as from the member's address.

They open after the link and close before it. They follow the rules of others as the kernel reports changes.
"""

import errno
import logging
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.netlink.messages import ACKNOWLEDGE, CREATE, EXCLUSIVE, REQUEST, ROUTE, write_raw
from exclave.kit.netlink.request import make_socket, request
from exclave.kit.netlink.subscription import open_subscription
from exclave.kit.tasks.backoff import FIGHT, pause_after
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.redirect.rules.source_rules import (
    DELETED_RULE,
    GROUPS,
    NEW_RULE,
    RoutingRule,
    RulesChange,
    make_listing,
    parse_rule,
    plan_rules,
)

log = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds for all requests of one change

CHECK_INTERVAL, POLL_INTERVAL = 60.0, 5.0  # seconds between two readings: while the kernel reports changes, and else

_ABSENT = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a kernel without IPv6, or without routing rules


class SourceRouting:
    """The rules of replies. `problem`: why they are not as wanted; `repairs`: number of foreign changes followed."""

    def __init__(self, addresses: Latest[tuple[str, ...]]) -> None:
        self.problem: Latest[HostError | None] = Latest(None)
        self.changes = Latest(0)
        self._addresses = addresses
        self._changed: deque[float] = deque(maxlen=FIGHT)

    def miss(self) -> None:
        """Count a change: rules may have changed."""
        self.changes.set(self.changes.value + 1)

    async def run(self, is_listening: Latest[bool]) -> None:
        """Follow addresses and rules until cancelled; never raises HostError."""
        async with open_any_change(self._addresses, self.changes, is_listening) as change:
            while True:
                await self.refresh()
                await trio.sleep(pause_after(self._changed, trio.current_time()))
                is_calm = is_listening.value and self.problem.value is None
                await change.wait(CHECK_INTERVAL if is_calm else POLL_INTERVAL)

    async def refresh(self) -> None:
        """Change what is not as wanted now; never raises HostError."""
        addresses = self._addresses.value
        if not addresses:
            return  # not known yet: the copies of an earlier agent stay
        try:
            change = await _reconcile(addresses)
        except HostError as problem:
            if problem.message != getattr(self.problem.value, "message", None):
                log.error("redirect: %s (%s)", problem.message, problem.hint)
            self.problem.set(problem)
            return
        self.problem.set(None)
        if change != RulesChange():
            self._changed.append(trio.current_time())
            counts = (len(change.add), len(change.delete))
            log.info("redirect: [routing rules for replies: added=%d deleted=%d like=%s]", *counts, ",".join(addresses))


@asynccontextmanager
async def open_source_routing(
    addresses: Latest[tuple[str, ...]], endings: EndingSwitch
) -> AsyncIterator[SourceRouting]:
    """Have replies leave as from the first of these addresses that has rules. On hand-over the copies stay."""
    routing = SourceRouting(addresses)
    async with open_subscription(
        "routing rules' monitor", ROUTE, GROUPS, lambda _: routing.miss(), routing.miss
    ) as is_listening:
        await routing.refresh()
        try:
            async with open_bare_nursery() as nursery:
                nursery.start_soon(supervise, "routing rules", partial(routing.run, is_listening))
                yield routing
                nursery.cancel_scope.cancel()
        finally:
            if endings.value is not Ending.HAND_OVER:
                with shielded(TIMEOUT):
                    await remove_source_rules()


async def remove_source_rules() -> int:
    """Remove our rules, of which there may be none; returns their number. Needs no agent. Raises HostError."""
    return len((await _reconcile(())).delete)


async def find_source_rules() -> tuple[str, ...]:
    """Our rules, one text for each family that has some. Needs no agent. Raises HostError."""
    async with _open_kernel() as kernel:
        return tuple(sorted({f"from {rule.source}" for rule in await _list(kernel) if rule.is_ours}))


async def _reconcile(addresses: Collection[str]) -> RulesChange:
    async with _open_kernel() as kernel:
        change = plan_rules(await _list(kernel), addresses)
        for rule in change.add:
            await _send(kernel, NEW_RULE, CREATE | EXCLUSIVE, rule, errno.EEXIST)
        for rule in change.delete:
            await _send(kernel, DELETED_RULE, 0, rule, errno.ENOENT)
        return change


@asynccontextmanager
async def _open_kernel() -> AsyncIterator[trio.socket.SocketType]:
    """A socket for requests about rules. Failures in the block become HostErrors."""
    try:
        with trio.fail_after(TIMEOUT), make_socket(ROUTE) as kernel:
            yield kernel
    except PermissionError:
        text = "changing routing rules is not permitted"
        raise HostError(Fault.NO_PRIVILEGE, text, "run as root, with the capability NET_ADMIN") from None
    except (OSError, ValueError, trio.TooSlowError) as problem:
        why = str(problem) or "the kernel does not answer"
        hint = "compare the rules for this machine's address, and those with proto 77: ip rule show"
        raise HostError(Fault.NFT_UNUSABLE, f"replies may leave by the wrong path: {why}", hint) from None


async def _list(kernel: trio.socket.SocketType) -> list[RoutingRule]:
    found = []
    for message in (make_listing(4), make_listing(6)):
        async for answer in request(kernel, message, _ABSENT):
            if answer.kind == NEW_RULE and (rule := parse_rule(answer.body)) is not None:
                found.append(rule)
    return found


async def _send(kernel: trio.socket.SocketType, kind: int, flags: int, rule: RoutingRule, tolerated: int) -> None:
    message = write_raw(kind, REQUEST | ACKNOWLEDGE | flags, rule.body())
    async for _ in request(kernel, message, (tolerated,)):
        pass
