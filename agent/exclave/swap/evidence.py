"""Counts what shows that an instance is ready for traffic, and that it has none left. Pure: texts in, numbers out."""

from exclave.api.settings import POLICY_PORT
from exclave.kit.host.sockets import CLOSE_WAIT, ESTABLISHED, FIN_WAIT, SYN_RECV, read_sockets
from exclave.link.layout import ADMIN_PORT
from exclave.proxy.metrics import read_samples


def count_policies(page: str) -> int:
    """How many policies have arrived, by the metrics page.

    linkerd2-proxy requests the policy of each inbound port, and of its admin port, on a stream that stays open. The
    first message of a stream counts in `control_response_latency_ms_count`, its end in `control_response_total`.
    Source: linkerd2-proxy, linkerd/http/metrics/src/requests/service.rs (`record_latency`) and
    linkerd/app/inbound/src/policy/store.rs.
    """
    arrived = 0.0
    for sample in read_samples(page, "control_response_latency_ms_count", "control_response_total"):
        labels = sample.labels
        if not labels.get("addr", "").endswith(f":{POLICY_PORT}") or labels.get("status_code") != "200":
            continue
        if sample.name == "control_response_latency_ms_count":
            arrived += sample.value
        elif labels.get("classification") == "failure" or labels.get("grpc_status", "0") not in ("", "0"):
            # A stream that ended with an error brought no policy, and is requested again. NotFound is such an error,
            # though its classification is `success`.
            arrived -= sample.value
    return round(arrived)


def wanted_policies(ports: tuple[int, ...]) -> int:
    """How many policies an instance with these inbound ports requests when it starts."""
    return len({*ports, ADMIN_PORT})


def count_clients(page: str) -> int:
    """Open connections of clients, by the metrics page; those of the admin server are left out.

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
    """Connections to these local addresses and ports that may still transfer bytes, in a /proc/net/tcp or tcp6.

    Connections that no process has open any more (orphans, TIME_WAIT) do not count.
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
