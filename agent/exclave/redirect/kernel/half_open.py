"""Deletes half-open connections that began while our rules were absent, so that their next SYN is captured.

The kernel translates a connection at its first packet or never, and remembers an unanswered one for two minutes. For
that time its repeated SYN bypasses the mesh, and so does a new connection with the same ports.
Only connections without a reply and without translation are deleted, with an address of this machine at one end. A
reply may be on its way, so a connection must still be unanswered some time later. Failures are logged only.
"""

import errno
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Collection

import trio

from exclave.kit.host.netlink import DONE, ERROR, NETFILTER, read_messages
from exclave.kit.host.procfs import local_addresses
from exclave.redirect.kernel.conntrack import LIST_HALF_OPEN, HalfOpen, parse_half_open

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds for the whole work: a router may remember millions of connections."""

WAIT_FOR_REPLY = 0.5
"""Seconds until a connection counts as unanswered. Less than a second, after which a first SYN is repeated."""

_DATAGRAM = 1 << 16  # bytes of one datagram


async def forget_half_open(addresses: Collection[str]) -> None:
    """Delete half-open connections from or to an address of this machine, or one of `addresses`."""
    try:
        with trio.fail_after(TIMEOUT):
            count = await _forget(addresses)
    except (OSError, ValueError, trio.TooSlowError) as problem:
        why = str(problem) or "the kernel does not answer"
        log.warning("redirect: connections begun without rules may bypass the mesh for two minutes: %s", why)
        return
    if count:
        log.info("redirect: half-open connections deleted, since they began without rules: %d", count)


async def _forget(addresses: Collection[str]) -> int:
    with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as kernel:
        await kernel.bind((0, 0))
        own = local_addresses().union(addresses)
        waiting = {each for each in await _list(kernel) if each.source in own or each.destination in own}
        if waiting:
            await trio.sleep(WAIT_FOR_REPLY)
            waiting &= await _list(kernel)
        for each in waiting:
            await kernel.send(each.delete_message())
            async for _ in _answers(kernel):
                pass
        return len(waiting)


async def _list(kernel: trio.socket.SocketType) -> set[HalfOpen]:
    await kernel.send(LIST_HALF_OPEN)
    return {each async for kind, body in _answers(kernel) if (each := parse_half_open(kind, body)) is not None}


async def _answers(kernel: trio.socket.SocketType) -> AsyncIterator[tuple[int, bytes]]:
    """The kernel's messages in reply to a request. Raises OSError if the kernel refuses."""
    while True:
        for kind, body in read_messages(await kernel.recv(_DATAGRAM)):
            if kind == DONE:
                return
            if kind == ERROR:
                number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                if number not in (0, errno.ENOENT):  # it may have ended meanwhile
                    raise OSError(number, os.strerror(number))
                return
            yield kind, body
