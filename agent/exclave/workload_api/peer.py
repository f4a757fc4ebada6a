"""Who is at the other end of a unix socket: the kernel tells (SO_PEERCRED), so nobody can lie.

Source: unix(7): struct ucred { pid_t pid; uid_t uid; gid_t gid; }. Blocking, but a socket option waits for nothing.
"""

import socket
import struct
from dataclasses import dataclass
from typing import Protocol

from exclave.workload_api.wire import RpcStatus, StatusCode

_UCRED = struct.Struct("3i")


@dataclass(frozen=True)
class Peer:
    """A process, as it was when it connected."""

    pid: int
    uid: int
    gid: int


class SocketWithOptions(Protocol):
    """A socket, the library's or trio's."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """As socket.socket has it."""


def peer_of(connection: SocketWithOptions) -> Peer:
    """Read who connected."""
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def check_peer(peer: Peer, allowed_uids: frozenset[int]) -> RpcStatus | None:
    """Whether a peer may have the key; None means yes."""
    if peer.uid in allowed_uids:
        return None
    return RpcStatus(StatusCode.PERMISSION_DENIED, f"user {peer.uid} is not the proxy's, and only the proxy is served")
