"""Traces one real connection attempt through the kernel's rules.

The source port that our socket holds identifies the packet; a mark may change its route. The tracing rule is in an
owned table of one `nft` process, which ends with us, so the rule never stays. A packet of our own has passed all rules
when `send_first_packet` returns, so nothing must wait for its events: their socket is opened before.
"""

import errno
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import trio

from exclave.errors import Fault, HostError
from exclave.explain.table import TRACE_TABLE
from exclave.kit.host.command import missing_tool
from exclave.kit.netlink.messages import NETFILTER
from exclave.kit.tasks.nursery import shielded
from exclave.redirect.kernel.nft_events import TraceEvent, parse_events
from exclave.redirect.kernel.observe import find_error

_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTRACE = 270, 1, 9
"""Source: Linux, include/linux/socket.h and include/uapi/linux/netlink.h, netfilter/nfnetlink.h."""

END_TIME = 5.0  # seconds for nft to end after it was killed
RULE_TIME = 10.0  # seconds for nft to create the tracing rule


@contextmanager
def open_attempt(version: int, uid: int | None = None, gid: int | None = None) -> Iterator[socket.socket]:
    """A socket with a source port, made as this user and group: rules match the user that made the socket."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with _as(uid, gid):
        attempt = socket.socket(family, socket.SOCK_STREAM)
    with attempt:
        attempt.setblocking(False)
        attempt.bind(("::" if version == 6 else "0.0.0.0", 0))  # noqa: S104  only to hold a port
        yield attempt


@contextmanager
def _as(uid: int | None, gid: int | None) -> Iterator[None]:
    own = os.getegid(), os.geteuid()
    try:
        os.setegid(own[0] if gid is None else gid)
        os.seteuid(own[1] if uid is None else uid)
        yield
    finally:
        os.seteuid(own[1])
        os.setegid(own[0])


def send_first_packet(attempt: socket.socket, address: str, port: int) -> str:
    """Send the first packet. Returns the kernel's immediate error, "" if there is none."""
    result = attempt.connect_ex((address, port))
    return "" if result in (0, errno.EINPROGRESS) else os.strerror(result)


def listen_for_events() -> socket.socket:
    """A socket that gets every verdict on a traced packet of this network namespace. Raises HostError."""
    try:
        channel = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETFILTER
        )
        channel.bind((0, 0))
        channel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTRACE)
    except OSError as problem:
        raise HostError(
            Fault.NO_PRIVILEGE if problem.errno == errno.EPERM else Fault.NFT_UNUSABLE,
            f"the kernel's trace events cannot be read: {problem.strerror}",
            "run as root, with the capability NET_ADMIN",
        ) from None
    return channel


def read_events(channel: socket.socket) -> list[TraceEvent]:
    """The events that have arrived."""
    events: list[TraceEvent] = []
    while True:
        try:
            events += parse_events(channel.recv(65536))
        except BlockingIOError:
            return events


@asynccontextmanager
async def open_tracing(source_port: int) -> AsyncIterator[None]:
    """Trace first packets from a source port of this machine while open. Raises HostError."""
    rules = (
        f"add table inet {TRACE_TABLE} {{ flags owner; }}\n"
        f"add chain inet {TRACE_TABLE} output {{ type filter hook output priority -400; policy accept; }}\n"
        f"add rule inet {TRACE_TABLE} output tcp sport {source_port} "
        "tcp flags & (fin | syn | rst | ack) == syn meta nftrace set 1\n"
        f"list table inet {TRACE_TABLE}\n"
    )
    process = await _start_nft()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        listed = b""
        with trio.move_on_after(RULE_TIME) as patience:
            with suppress(trio.BrokenResourceError):  # nft has ended, and has printed the reason
                await process.stdin.send_all(rules.encode())
            while b"nftrace set 1" not in listed.partition(b"\t}")[0] or not listed.endswith(b"}\n"):
                more = await process.stdout.receive_some(4096)
                listed += more
                if not more or b"Error" in listed:
                    break
        if patience.cancelled_caught or b"Error" in listed or not listed.endswith(b"}\n"):
            error = find_error(listed.decode("utf-8", "replace"))
            raise HostError(
                Fault.NFT_UNUSABLE,
                f"nft made no rule that traces: {error or 'no message'}",
                "--trace needs Linux 5.12 and nftables 0.9.9",
            )
        yield
    finally:
        with shielded(END_TIME):
            process.kill()
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


async def _start_nft() -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            ["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as problem:
        raise missing_tool("nft", problem) from None
