"""The settings of the stand-in proxy, and what its inbound policy permits. Pure.

Names, formats and refusals are those of linkerd2-proxy (`linkerd/app/src/env.rs`), policies those of its
linkerd/app/inbound/src/policy.rs, policy/defaults.rs and linkerd/proxy/server-policy/src/lib.rs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from exclave.kit.formats.host_port import split_host_port
from exclave.kit.formats.times import parse_duration

PREFIX = "LINKERD2_PROXY_"
IDENTITY_DIR = "EXCLAVE_STANDIN_IDENTITY_DIR"
"""The stand-in's own: a folder with key.pem and chain.pem, for pods, in place of linkerd-identity."""

POLICIES = (
    "deny", "all-authenticated", "all-unauthenticated", "cluster-authenticated", "cluster-unauthenticated", "audit",
)  # fmt: skip
Network = IPv4Network | IPv6Network
Address = tuple[str, int]  # host and port


@dataclass(frozen=True)
class StandinSettings:
    """The environment, read. Durations are seconds; exactly one of `workload_api` and `identity_dir` is set."""

    inbound: Address
    outbound: tuple[Address, ...]
    admin: Address
    inbound_ips: frozenset[str]
    opaque_ports: tuple[tuple[int, int], ...]
    policy: str
    cluster_networks: tuple[Network, ...]
    profile_networks: tuple[Network, ...]
    server_id: str
    server_name: str
    anchors: str
    workload_api: str | None
    identity_dir: Path | None
    destination: Address
    policy_server: Address
    inbound_ports: tuple[int, ...]
    remember: float
    grace: float

    def is_opaque(self, port: int) -> bool:
        """True if protocol detection is off for this port."""
        return any(first <= port <= last for first, last in self.opaque_ports)


def read_environment(environment: Mapping[str, str]) -> StandinSettings:
    """Parse the variables. Raises ValueError naming the one that is missing or wrong."""
    reader = _Reader(environment)
    local_name = environment.get(f"{PREFIX}IDENTITY_LOCAL_NAME")
    folder = environment.get(IDENTITY_DIR)
    socket = reader.optional("IDENTITY_SPIRE_WORKLOAD_API_ADDRESS") or reader.optional("IDENTITY_SPIRE_SOCKET")
    server_id = local_name or reader.required("IDENTITY_SERVER_ID")
    if not socket and not folder:
        raise ValueError(f"{PREFIX}IDENTITY_SPIRE_WORKLOAD_API_ADDRESS or {IDENTITY_DIR} must be set")
    if not folder and not server_id.startswith("spiffe://"):
        raise ValueError("Spire support requires a SPIFFE TLS Id")
    policy = reader.optional("INBOUND_DEFAULT_POLICY") or "all-unauthenticated"
    if policy not in POLICIES:
        raise ValueError(f"{PREFIX}INBOUND_DEFAULT_POLICY={policy!r}: one of {', '.join(POLICIES)} was expected")
    return StandinSettings(
        inbound=reader.address("INBOUND_LISTEN_ADDR", "0.0.0.0:4143"),
        outbound=reader.outbound(),
        admin=reader.address("ADMIN_LISTEN_ADDR", "127.0.0.1:4191"),
        inbound_ips=frozenset(str(ip_address(text)) for text in reader.listed("INBOUND_IPS")),
        opaque_ports=tuple(map(_range, reader.listed("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION"))),
        policy=policy,
        cluster_networks=tuple(map(ip_network, reader.listed("POLICY_CLUSTER_NETWORKS"))),
        profile_networks=tuple(map(ip_network, reader.listed("DESTINATION_PROFILE_NETWORKS"))),
        server_id=server_id,
        server_name=local_name or reader.required("IDENTITY_SERVER_NAME"),
        anchors=reader.required("IDENTITY_TRUST_ANCHORS"),
        workload_api=None if folder else socket.removeprefix("unix:"),
        identity_dir=Path(folder) if folder else None,
        destination=reader.address("DESTINATION_SVC_ADDR", None),
        policy_server=reader.address("POLICY_SVC_ADDR", None),
        inbound_ports=tuple(map(int, reader.listed("INBOUND_PORTS"))),
        remember=reader.duration("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "5s"),
        grace=reader.duration("SHUTDOWN_GRACE_PERIOD", "2m"),
    )


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def optional(self, name: str) -> str:
        return self._environment.get(PREFIX + name, "")

    def required(self, name: str) -> str:
        found = self.optional(name)
        if not found:
            raise ValueError(f"{PREFIX}{name} must be set")
        return found

    def listed(self, name: str) -> list[str]:
        return [part.strip() for part in self.optional(name).split(",") if part.strip()]

    def address(self, name: str, default: str | None) -> Address:
        text = self.optional(name) or default or self.required(name)
        try:
            return _address(text)
        except ValueError:
            raise ValueError(f"{PREFIX}{name}={text!r}: HOST:PORT was expected") from None

    def outbound(self) -> tuple[Address, ...]:
        listed = self.listed("OUTBOUND_LISTEN_ADDRS")
        if len(listed) > 2:
            raise ValueError(f"{PREFIX}OUTBOUND_LISTEN_ADDRS: only two addresses are supported")
        return tuple(map(_address, listed)) or (self.address("OUTBOUND_LISTEN_ADDR", "127.0.0.1:4140"),)

    def duration(self, name: str, default: str) -> float:
        return parse_duration(self.optional(name) or default)


def _address(text: str) -> Address:
    host, port = split_host_port(text, lowest=0)
    if not host:
        raise ValueError(f"{text!r}: HOST:PORT was expected")
    return host, port


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


LOOPBACK = ("127.0.0.1", "::1")  # these alone, not all of their networks


def is_permitted(policy: str, networks: Sequence[Network], peer: str, client_id: str | None) -> bool:
    """True if a connection from `peer` (an IP) is allowed; `client_id` is its identity by TLS, None for plaintext."""
    if policy == "deny":
        return False
    if policy.startswith("cluster-") and not any(ip_address(peer) in network for network in networks):
        return False
    return client_id is not None or not policy.endswith("-authenticated")


def refusal_of_admin(
    policy: str, networks: Sequence[Network], peer: str, client_id: str | None, *, has_arrived: bool
) -> int | None:
    """The status of the admin server's refusal; None if the request is allowed."""
    if has_arrived and peer in LOOPBACK:
        return None
    if policy == "deny" and not has_arrived:
        return 404
    return None if is_permitted(policy, networks, peer, client_id) else 403
