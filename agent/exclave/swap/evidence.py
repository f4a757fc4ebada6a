"""Evidence that a new instance is ready for traffic, and that an old one has none left.

A trial connection proves readiness: the agent connects to its own trial address, by way of the new instance.
"""

import secrets
from collections.abc import Iterable

import psutil
import trio

from exclave.api.settings import POLICY_PORT
from exclave.errors import Fault, HostError
from exclave.kit.host.procfs import list_tcp_sockets, read_tcp_tables
from exclave.kit.host.sockets import CLOSE_WAIT, ESTABLISHED, FIN_WAIT, SYN_RECV, Place, read_sockets
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.link.layout import ADMIN_PORT
from exclave.proxy.metrics import read_samples

TRIAL_TIMEOUT = 10.0  # seconds for one trial, in which the proxy looks up the destination as for any connection

HINT = "see the new proxy's log in the runtime folder; the old one goes on"


def count_policies(page: str) -> int:
    """The number of policies that have arrived, by the metrics page.

    linkerd2-proxy requests each port's policy on a stream. The first message of a stream counts in
    `control_response_latency_ms_count`, its end in `control_response_total`. Source: linkerd2-proxy,
    linkerd/http/metrics/src/requests/service.rs (`record_latency`) and linkerd/app/inbound/src/policy/store.rs.
    """
    arrived = 0.0
    for sample in read_samples(page, "control_response_latency_ms_count", "control_response_total"):
        labels = sample.labels
        if not labels.get("addr", "").endswith(f":{POLICY_PORT}") or labels.get("status_code") != "200":
            continue
        if sample.name == "control_response_latency_ms_count":
            arrived += sample.value
        elif labels.get("classification") == "failure" or labels.get("grpc_status", "0") not in ("", "0"):
            # A stream that ended with an error (also NotFound, though classified as `success`) is requested again.
            arrived -= sample.value
    return round(arrived)


def wanted_policies(ports: tuple[int, ...]) -> int:
    """The number of policies that an instance with these inbound ports requests when it starts."""
    return len({*ports, ADMIN_PORT})


def count_clients(page: str) -> int:
    """Open connections of clients, by the metrics page, without the admin server's.

    Source: linkerd2-proxy, linkerd/transport-metrics/src/lib.rs.
    """
    return round(
        sum(
            sample.value
            for sample in read_samples(page, "tcp_open_connections")
            if sample.labels.get("peer") == "src"
            and not sample.labels.get("target_addr", "").endswith(f":{ADMIN_PORT}")
        )
    )


def count_sockets(table: str, addresses: frozenset[str], ports: frozenset[int]) -> int:
    """Connections to these local addresses and ports, in a /proc/net/tcp or tcp6, that may still transfer bytes.

    Connections without a process (orphans, TIME_WAIT) do not count.
    """
    found = 0
    for socket in read_sockets(table):
        address, port = socket.local
        is_closing = socket.state in FIN_WAIT and socket.inode != 0
        if (
            (socket.state in (ESTABLISHED, SYN_RECV, CLOSE_WAIT) or is_closing)
            and port in ports
            and address in addresses
        ):
            found += 1
    return found


# The trial connection


async def try_connection(address: str, pid: int, listener: Place) -> None:
    """Connect to ourselves by way of process `pid`. Raises HostError with the reason if that fails.

    `listener`: where that process accepts outbound connections.
    """
    try:
        with trio.fail_after(TRIAL_TIMEOUT):
            await _try(address, pid, listener)
    except trio.TooSlowError:
        raise _failure(address, f"did not arrive within {TRIAL_TIMEOUT:.0f} s") from None
    except (OSError, trio.BrokenResourceError) as problem:
        raise _failure(address, f"broke: {problem}") from None


async def _try(address: str, pid: int, proxy_listener: Place) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=address)
    owner = pid if await trio.to_thread.run_sync(_may_inspect, pid) else None
    async with listener, open_bare_nursery() as nursery:
        token = secrets.token_hex(16).encode() + b"\r\n"
        nursery.start_soon(_answer, listener, address, owner, token)
        async with await trio.open_tcp_stream(address, listener.socket.getsockname()[1]) as stream:
            await stream.send_all(token)
            if await _read(stream, len(token)) != token:
                raise _failure(address, "was closed, or returned other bytes than were sent")
            client = stream.socket.getsockname()[:2]
            tables = await trio.to_thread.run_sync(read_tcp_tables) if owner is None else ()
            if owner is None and not is_accepted(tables, proxy_listener, client):
                raise _failure(address, "was not accepted by the new proxy")
        nursery.cancel_scope.cancel()


async def _answer(listener: trio.SocketListener, address: str, pid: int | None, token: bytes) -> None:
    """Accept one connection, of process `pid` if that can be inspected, and echo the token."""
    async with await listener.accept() as stream:
        peer = stream.socket.getpeername()[:2]
        if pid is not None and not await trio.to_thread.run_sync(_has_socket, pid, peer):
            raise _failure(address, f"arrived from {peer[0]}:{peer[1]}, which is not a socket of the new proxy")
        if await _read(stream, len(token)) != token:
            raise _failure(address, "did not bring the bytes that were sent")
        await stream.send_all(token)
        await trio.sleep_forever()  # the other side closes, and cancels this


async def _read(stream: trio.SocketStream, size: int) -> bytes:
    received = b""
    while len(received) < size and (piece := await stream.receive_some(size - len(received))):
        received += piece
    return received


def is_accepted(tables: Iterable[str], listener: Place, client: Place) -> bool:
    """True if one of the kernel's tables has a connection that `listener` accepted from `client`."""
    return any((one.local, one.remote) == (listener, client) for table in tables for one in read_sockets(table))


def _may_inspect(pid: int) -> bool:
    """True if we may list the sockets of a process. Without CAP_SYS_PTRACE, one of another user hides them."""
    try:
        list_tcp_sockets(psutil.Process(pid))
    except psutil.AccessDenied:
        return False
    except psutil.Error:
        return True  # it has ended, which the trial reports
    return True


def _has_socket(pid: int, address: tuple[str, int]) -> bool:
    try:
        return any(tuple(one.laddr) == address for one in list_tcp_sockets(psutil.Process(pid)))
    except psutil.Error:
        return False


def _failure(address: str, what: str) -> HostError:
    return HostError(Fault.PROXY_UNUSABLE, f"a trial connection to {address} {what}", HINT)
