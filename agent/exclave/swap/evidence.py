"""What proves that an instance may have traffic, and what proves that it has none left. Pure: texts in, numbers out.

Policies have arrived: linkerd2-proxy asks the policy controller once for each inbound port that it was told of, and for
its admin port, each on a stream that stays open. `control_response_latency_ms_count` goes up with the first message of
such a stream, `control_response_total` with its end; one that ended with an error (NotFound counts as no failure there)
brought no policy, and is asked for anew.
Source: linkerd/http/metrics/src/requests/service.rs (`record_latency`), linkerd/app/inbound/src/policy/store.rs,
linkerd/app/admin/src/stack.rs.

Quiet: its metrics count no open connection of a client (`tcp_open_connections`, `peer="src"`; its own admin server's
are among them and are left out), and the kernel has none on the ports that traffic comes in by, accepted or not.
Source: linkerd/transport-metrics/src/lib.rs.
"""

from exclave.kit.host.sockets import CLOSE_WAIT, ESTABLISHED, FIN_WAIT, SYN_RECV, read_sockets
from exclave.link.layout import ADMIN_PORT
from exclave.proxy.environment import POLICY_PORT
from exclave.proxy.metrics import read_samples


def count_policies(page: str) -> int:
    """How many streams from the policy controller have brought something, as a metrics page tells."""
    arrived = 0.0
    for sample in read_samples(page, "control_response_latency_ms_count", "control_response_total"):
        labels = sample.labels
        if not labels.get("addr", "").endswith(f":{POLICY_PORT}") or labels.get("status_code") != "200":
            continue
        if sample.name == "control_response_latency_ms_count":
            arrived += sample.value
        elif labels.get("classification") == "failure" or labels.get("grpc_status", "0") not in ("", "0"):
            arrived -= sample.value
    return round(arrived)


def wanted_policies(ports: tuple[int, ...]) -> int:
    """How many streams an instance with these inbound ports opens when it starts."""
    return len({*ports, ADMIN_PORT})


def count_clients(page: str) -> int:
    """Open connections of clients, as a metrics page tells."""
    return round(
        sum(
            sample.value
            for sample in read_samples(page, "tcp_open_connections")
            if sample.labels.get("peer") == "src"
            and not sample.labels.get("target_addr", "").endswith(f":{ADMIN_PORT}")
        )
    )


def count_sockets(table: str, addresses: frozenset[str], ports: frozenset[int]) -> int:
    """Connections to these local addresses and ports in which bytes may still move, in a /proc/net/tcp or tcp6.

    What nobody holds any more (orphans, TIME_WAIT) is not counted.
    """
    found = 0
    for socket in read_sockets(table):
        address, port = socket.local
        is_held = socket.state in FIN_WAIT and socket.inode != 0
        if (socket.state in (ESTABLISHED, SYN_RECV, CLOSE_WAIT) or is_held) and port in ports and address in addresses:
            found += 1
    return found
