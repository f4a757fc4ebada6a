"""Serves the proxy's certificate on a unix socket, and each new one at once. No failure here ends the agent.

Other users cannot connect: an access list on the socket names the proxy's user. On a file system without such lists
they can; they are refused by their user id, and have few connections at a time.
"""

import errno
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

import trio

from exclave.errors import Fault, HostError, describe
from exclave.identity.svid import Svid
from exclave.kit.host.accepting import Quota, SparseLog, accept_connections
from exclave.kit.host.rebinding_socket import ReopenedSocket
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.milestones import Renewing, log_milestone
from exclave.workload_api.connection import RpcStatus, StatusCode, WorkloadConnection, X509Svid, encode_response

log = logging.getLogger(__name__)

CLOSE_TIME = 2.0  # seconds for sending the end of its call to a client

MOST_CLIENTS = 32  # connections of each served user at a time; each instance of the proxy has one
MOST_OTHERS = 4  # connections of all other users together; they only get the reason of their refusal
OTHERS_TIME = 5.0  # seconds for such a connection

_CHUNK = 65536
_ACL = "system.posix_acl_access"
_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


@dataclass(frozen=True)
class Peer:
    """A process, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket | trio.socket.SocketType) -> Peer:
    """The process that connected, as reported by the kernel, so it cannot be forged."""
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def check_peer(peer: Peer, allowed_uids: frozenset[int]) -> RpcStatus | None:
    """The status that refuses a peer the key; None if it may have the key."""
    if peer.uid in allowed_uids:
        return None
    return RpcStatus(StatusCode.PERMISSION_DENIED, f"user {peer.uid} is not the proxy's, and only the proxy is served")


@dataclass(frozen=True)
class WorkloadApi:
    """The socket's path, and the number of streams that are served."""

    path: Path
    streams: Latest[int]


@asynccontextmanager
async def open_workload_api(
    path: Path, svid: Latest[Svid | None], bundle: Callable[[], tuple[bytes, ...]], allowed_uids: frozenset[int]
) -> AsyncIterator[WorkloadApi]:
    """Serve the newest certificate to these users while open. `bundle` returns the mesh's anchors (DER).

    Raises HostError if the socket cannot be opened, or another agent serves it.
    """
    api = WorkloadApi(path, Latest(0))

    quota, refusals, failures = Quota(dict.fromkeys(allowed_uids, MOST_CLIENTS), MOST_OTHERS), SparseLog(), SparseLog()

    def admit(stream: trio.SocketStream) -> bool:
        peer = peer_of(stream.socket)
        if peer.uid not in allowed_uids:
            refusals.warning("workload API: process %d of user %d was refused", peer.pid, peer.uid)
        return quota.admit(peer.uid)

    async def serve_or_drop(stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket)
        denied = check_peer(peer, allowed_uids)
        try:
            async with stream:
                with trio.move_on_after(inf if denied is None else OTHERS_TIME):
                    await _serve(stream, WorkloadConnection(denied), svid, bundle, api.streams)
        except Exception as problem:
            failures.warning("workload API: a client was dropped: %s", describe(problem))
        finally:
            quota.release(peer.uid)

    async with open_bare_nursery() as nursery:

        async def accept(sock: trio.socket.SocketType) -> None:
            await accept_connections("workload API", sock, nursery, serve_or_drop, admit)

        part = ReopenedSocket(partial(_bind, path, allowed_uids), accept, path)
        nursery.start_soon(supervise, "workload API", part.serve)
        try:
            yield api
        finally:
            nursery.cancel_scope.cancel()
            part.close()
            path.unlink(missing_ok=True)


async def _serve(
    stream: trio.SocketStream,
    connection: WorkloadConnection,
    svid: Latest[Svid | None],
    bundle: Callable[[], tuple[bytes, ...]],
    streams: Latest[int],
) -> None:
    ready = Latest(0)  # counts what may have produced bytes to send
    sent = Latest(0)  # the value of `ready` whose bytes were sent
    counted = 0
    is_new = False  # the newest certificate was not sent to this client yet

    async def read() -> None:
        while not connection.is_over:
            try:
                connection.receive(await stream.receive_some(_CHUNK))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                connection.receive(b"")
            ready.set(ready.value + 1)
            # A client that sends and does not read must not fill our memory with answers.
            await sent.wait_for(lambda count, ready=ready.value: count >= ready)  # type: ignore[misc]

    async def follow() -> None:
        nonlocal is_new
        async for newest in svid.changes():
            if newest is not None:
                is_new = True
                chain, anchors = b"".join(newest.chain), b"".join(bundle())
                connection.publish(encode_response((X509Svid(newest.spiffe_id, chain, newest.key, anchors),)))
                ready.set(ready.value + 1)

    try:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(follow)
            async for number in ready.changes():
                is_sending = is_new and connection.streams > 0
                is_new = is_new and not is_sending
                await stream.send_all(connection.data_to_send())
                sent.set(number)
                if is_sending:
                    log_milestone(Renewing.SENT)
                streams.set(streams.value + connection.streams - counted)
                counted = connection.streams
                if connection.is_over:
                    break
            nursery.cancel_scope.cancel()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the client has closed the connection
    finally:
        streams.set(streams.value - counted)
        connection.close()
        with shielded(CLOSE_TIME), suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await stream.send_all(connection.data_to_send())


def _bind(path: Path, allowed_uids: frozenset[int]) -> trio.socket.SocketType:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        error = probe.connect_ex(str(path))
    if error in (0, errno.EAGAIN):  # another agent serves it; EAGAIN: its queue is full
        text = f"{path} is served by another process"
        raise HostError(Fault.ANOTHER_AGENT, text, "stop the other agent, then start this one")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        _allow_users(path, allowed_uids)
        listener.listen(64)
    except OSError as problem:
        listener.close()
        text = f"cannot listen on {path}: {problem.strerror}"
        raise HostError(Fault.OCCUPIED, text, "make its folder exist and writable for root") from problem
    return trio.socket.from_stdlib_socket(listener)


def _allow_users(path: Path, uids: frozenset[int]) -> None:
    """Let only these users connect. Not by the socket's owner: the agent may lack the capability to change it."""
    try:
        os.setxattr(path, _ACL, access_list(uids))
    except OSError as problem:
        log.info("workload API: each user may connect to %s, and only the proxy's is served: %s", path, problem)
        os.chmod(path, 0o666)  # noqa: S103  the kernel identifies the client


def access_list(uids: frozenset[int]) -> bytes:
    """A POSIX access list: the owner and these users may read and write. Source: linux/posix_acl_xattr.h."""
    everybody, nothing, use = 0xFFFFFFFF, 0, 6  # ACL_UNDEFINED_ID; permissions
    entries = (
        (0x01, use, everybody),  # ACL_USER_OBJ
        *((0x02, use, uid) for uid in sorted(uids)),  # ACL_USER
        (0x04, nothing, everybody),  # ACL_GROUP_OBJ
        (0x10, use, everybody),  # ACL_MASK
        (0x20, nothing, everybody),  # ACL_OTHER
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
