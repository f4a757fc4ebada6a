"""Connections that began while our rules were away: as far as nobody has answered them, they may begin again.

Why: the kernel translates a connection at its first packet or never, and keeps what it has seen of one that nobody
answers for two minutes. Its packets that are sent again pass by the mesh for as long, and so does any new connection
that comes to have the same ports. Forgotten, both meet the rules.

Rules: only what nobody has answered and nothing has translated, with an address of this machine at one end; what is
only forwarded, and whatever got through, stays as it is. An answer may be on its way, and forgetting would cut off the
connection that it belongs to: so only what is as silent some time later. What goes wrong is logged, and never in the
way of the rules.
"""

import errno
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Collection

import trio

from exclave.kit.host.interfaces import local_addresses
from exclave.kit.host.netlink import DONE, ERROR, NETFILTER, read_messages
from exclave.redirect.kernel.conntrack import LIST_UNANSWERED, Unanswered, read_unanswered

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for all of it: a router may remember millions."""

SILENT = 0.5
"""Seconds without an answer; less than a second, after which a first packet is sent again."""

_MOST = 1 << 16  # bytes of one datagram


async def forget_unanswered(addresses: Collection[str]) -> None:
    """Have the kernel forget such connections from or to an address of this machine, or one of `addresses`."""
    try:
        with trio.fail_after(PATIENCE):
            count = await _forget(addresses)
    except (OSError, ValueError, trio.TooSlowError) as problem:
        why = str(problem) or "the kernel does not answer"
        log.warning("redirect: what began while no rules stood may pass by the mesh for two minutes: %s", why)
        return
    if count:
        log.info("redirect: connections that began while no rules stood, and may begin again: %d", count)


async def _forget(addresses: Collection[str]) -> int:
    with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as kernel:
        await kernel.bind((0, 0))
        own = local_addresses().union(addresses)
        waiting = {each for each in await _list(kernel) if each.source in own or each.destination in own}
        if waiting:
            await trio.sleep(SILENT)
            waiting &= await _list(kernel)
        for each in waiting:
            await kernel.send(each.forget())
            async for _ in _answers(kernel):
                pass
        return len(waiting)


async def _list(kernel: trio.socket.SocketType) -> set[Unanswered]:
    await kernel.send(LIST_UNANSWERED)
    return {each async for kind, body in _answers(kernel) if (each := read_unanswered(kind, body)) is not None}


async def _answers(kernel: trio.socket.SocketType) -> AsyncIterator[tuple[int, bytes]]:
    """What the kernel says to a request, to its end. Raises OSError if it says no."""
    while True:
        for kind, body in read_messages(await kernel.recv(_MOST)):
            if kind == DONE:
                return
            if kind == ERROR:
                number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                if number not in (0, errno.ENOENT):  # it may have ended by itself
                    raise OSError(number, os.strerror(number))
                return
            yield kind, body
