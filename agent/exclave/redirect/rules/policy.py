"""The policy of redirection, as a value whose numbers and names are checked. Pure.

Never captured: traffic other than TCP; existing connections; SSH in both directions; the API server; loopback,
link-local, metadata and multicast addresses; the private link; the proxy's own traffic.
"""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from itertools import chain

from exclave.api.settings import Settings
from exclave.config import RedirectConfig, is_interface
from exclave.kit.formats.ranges import Span, as_span, merge, without
from exclave.link.layout import FAMILIES, INBOUND_PORT, INSTANCES, NETWORK6, Family, Instance

SSH_PORT = 22

METADATA = (
    "100.100.100.200/32",  # Alibaba
    "168.63.129.16/32",  # Azure's host: health of the machine, DHCP, DNS
    "fd00:c1::a9fe:a9fe/128",  # Oracle
    "fd00:ec2::/32",  # Amazon: metadata, DNS, time, pod identity
    "fd20:ce::254/128",  # Google
)
"""Cloud services outside of link-local; some are inside Linkerd's default cluster networks (100.64.0.0/10, fd00::/8).
Source: the clouds' documentation; cloud-init has those of Amazon, Oracle and Alibaba."""

OPEN_POLICIES = ("all-unauthenticated", "audit")
"""Default inbound policies of Linkerd that refuse nobody. With others, no address of a pod answers a plain client."""

NEVER_CAPTURED = (
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local: most clouds' metadata, and the private link
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
    str(NETWORK6),
    *METADATA,
)
"""Networks that are never captured."""


@dataclass(frozen=True)
class Server:
    """Address and port of an API server."""

    address: str
    port: int


@dataclass(frozen=True)
class HostExclusions:
    """Exclusions of this host: users and groups (numbers), SSH servers' ports beside 22, the peer of our session."""

    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()
    ssh_ports: tuple[int, ...] = ()
    ssh_peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class RedirectPolicy:
    """One ruleset's content. Raises ValueError naming the wrong value.

    `addresses`: the VM's own in the mesh. `networks`: captured outbound (CIDR), None for all. `exempt_sources`: CIDRs
    of callers that bypass the proxy. `capture_interfaces`: containers behind them are captured as local programs are.
    `families`: those of the proxy's outbound listeners. `outbound` or `inbound` False: that traffic bypasses the proxy.
    `closes`: the group's ports are closed at this machine's other addresses, where no policy of the mesh holds.
    `refuses`: outbound connections fail at once while no proxy listens; else callers try again.
    `trial`: an instance that gets only trial connections. `armed_until`: unconfirmed rules capture until then (trio's
    clock; 0: no longer); None: confirmed.
    """

    instance: Instance
    addresses: tuple[str, ...]
    inbound_ports: tuple[int, ...]
    networks: tuple[str, ...] | None
    proxy_uid: int
    exempt_inbound_ports: tuple[int | Span, ...] = ()
    exempt_outbound_ports: tuple[int | Span, ...] = ()
    exempt_networks: tuple[str, ...] = ()
    exempt_uids: tuple[int, ...] = ()
    servers: tuple[Server, ...] = ()
    families: tuple[Family, ...] = FAMILIES
    outbound: bool = True
    inbound: bool = True
    closes: bool = False
    refuses: bool = False
    exempt_gids: tuple[int, ...] = ()
    exempt_sources: tuple[str, ...] = ()
    exempt_inbound_interfaces: tuple[str, ...] = ()
    exempt_outbound_interfaces: tuple[str, ...] = ()
    capture_interfaces: tuple[str, ...] = ()
    ssh_ports: tuple[int, ...] = ()
    ssh_peers: tuple[str, ...] = ()
    trial: Instance | None = None
    armed_until: float | None = None

    def __post_init__(self) -> None:
        for instance in (self.instance, self.trial or self.instance):
            if instance not in INSTANCES:
                raise ValueError(f"instance: a or b was expected, found {instance!r}")
        for address in self.addresses:
            _check_own(address)
        if len({":" in address for address in self.addresses}) > 1:
            raise ValueError(f"addresses: those of one family were expected, found {', '.join(self.addresses)}")
        for address in (*self.ssh_peers, *(server.address for server in self.servers)):
            _check_address(address)
        for networks in (self.networks or (), self.exempt_networks, self.exempt_sources):
            _check_networks(networks)
        for family in self.families:
            if family not in FAMILIES:
                raise ValueError(f"family: 4 or 6 was expected, found {family!r}")
        for port in (*self.inbound_ports, *self.ssh_ports, *(server.port for server in self.servers)):
            _check_number(port, 65535, "port")
        for spans in (self.exempt_inbound_ports, self.exempt_outbound_ports):
            _check_spans(spans)
        for uid in (self.proxy_uid, *self.exempt_uids):
            _check_number(uid, 2**32 - 2, "user id")
        for gid in self.exempt_gids:
            _check_number(gid, 2**32 - 2, "group id")
        for name in (*self.exempt_inbound_interfaces, *self.exempt_outbound_interfaces, *self.capture_interfaces):
            if not is_interface(name):
                raise ValueError(f"interface: a name such as eth0 was expected, found {name!r}")
        if self.proxy_uid == 0:
            raise ValueError("user id: the proxy cannot run as root, whose traffic would all pass by it")
        if INBOUND_PORT in self.ssh_ports:
            raise ValueError(f"port {INBOUND_PORT}: an SSH server listens there, where the mesh's proxies call")

    def captured_ports(self) -> tuple[Span, ...]:
        """Inbound ports that go to the proxy unless SSH's or excluded: the group's, and always the proxy's own."""
        return merge((INBOUND_PORT, *self.inbound_ports))

    def ssh_server_ports(self) -> tuple[Span, ...]:
        """Ports of SSH servers, which are never captured."""
        return merge((SSH_PORT, *self.ssh_ports))

    def passed_inbound_ports(self) -> tuple[Span, ...]:
        """Inbound ports that this host excludes beside SSH's. Never 4143: opaque mesh traffic fails without it."""
        return without(self.exempt_inbound_ports, INBOUND_PORT, SSH_PORT, *self.ssh_ports)

    def passed_outbound_ports(self) -> tuple[Span, ...]:
        """Outbound ports that this host excludes beside SSH's."""
        return without(self.exempt_outbound_ports, SSH_PORT, *self.ssh_ports)


@lru_cache(maxsize=64)
def collapsed(networks: tuple[str, ...], family: Family) -> tuple[str, ...]:
    """The networks of a family, merged: none lies inside another."""
    if family == 4:
        return tuple(map(str, collapse_addresses(IPv4Network(one) for one in networks if ":" not in one)))
    return tuple(map(str, collapse_addresses(IPv6Network(one) for one in networks if ":" in one)))


_NO_EXCLUSIONS = HostExclusions()


def make_policy(
    settings: Settings,
    config: RedirectConfig,
    *,
    instance: Instance,
    addresses: tuple[str, ...],
    proxy_uid: int,
    servers: tuple[Server, ...],
    exclusions: HostExclusions = _NO_EXCLUSIONS,
    families: tuple[Family, ...] = FAMILIES,
    outbound_open: bool = False,
    outside_open: bool = False,
    inbound_open: bool = False,
    refuses: bool = False,
) -> RedirectPolicy:
    """The policy for these settings on this machine. Raises ValueError naming the wrong value.

    `addresses`: those in the mesh, and local ones behind a NAT; `servers`: the API servers; `families`: those of the
    proxy's outbound listeners. `outbound_open` and `inbound_open`: traffic bypasses the proxy; `outside_open`: that to
    addresses outside the cluster's networks does. `refuses`: as in RedirectPolicy.
    """
    capture = settings.group.capture
    networks: tuple[str, ...] | None = ()
    if capture == "all" and not outside_open:
        networks = None
    elif capture in ("all", "cluster"):
        # Linkerd also reads 10.1.2.3/8 as 10.0.0.0/8.
        networks = tuple(str(ip_network(network, strict=False)) for network in settings.linkerd.cluster_networks)
    return RedirectPolicy(
        instance=instance,
        addresses=tuple(str(ip_address(address)) for address in addresses),
        inbound_ports=tuple(port.port for port in settings.group.ports),
        networks=networks,
        proxy_uid=proxy_uid,
        exempt_inbound_ports=config.exclude_inbound_ports,
        exempt_outbound_ports=config.exclude_outbound_ports,
        exempt_networks=config.exclude_outbound_networks,
        exempt_uids=exclusions.uids,
        servers=servers,
        families=families,
        outbound=not outbound_open,
        inbound=not inbound_open,
        closes=(settings.group.inbound_policy or settings.linkerd.inbound_policy) not in OPEN_POLICIES,
        refuses=refuses,
        exempt_gids=exclusions.gids,
        exempt_sources=config.exclude_inbound_networks,
        exempt_inbound_interfaces=config.exclude_inbound_interfaces,
        exempt_outbound_interfaces=config.exclude_outbound_interfaces,
        capture_interfaces=config.capture_interfaces,
        ssh_ports=exclusions.ssh_ports,
        ssh_peers=exclusions.ssh_peers,
    )


def _check_address(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    # A zone such as fe80::1%eth0 may have any characters, and could inject rules.
    if "%" in text or str(address) != text:
        raise ValueError(f"address: {str(address).partition('%')[0]} was expected, found {text!r}")
    return address


def _check_own(text: str) -> None:
    address = _check_address(text)
    if address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast:
        raise ValueError(f"address: one that others reach this machine at was expected, found {text!r}")


@lru_cache(maxsize=64)  # up to a thousand networks, always the same, are checked every few seconds
def _check_networks(networks: tuple[str, ...]) -> None:
    for text in networks:
        network = ip_network(text)
        if "%" in text or str(network) != text:
            raise ValueError(f"network: {str(network).partition('%')[0]} was expected, found {text!r}")


def _check_spans(spans: tuple[int | Span, ...]) -> None:
    for bound in chain.from_iterable(map(as_span, spans)):
        if isinstance(bound, bool):
            _check_number(bound, 65535, "port")  # not in the cache: True equals 1, and would get the result for port 1
    _check_span_values(spans)


@lru_cache(maxsize=64)
def _check_span_values(spans: tuple[int | Span, ...]) -> None:
    for first, last in map(as_span, spans):
        for port in (first, last):
            _check_number(port, 65535, "port")
        if first > last:
            raise ValueError(f"ports: a range that begins with its lower end was expected, found {first}-{last}")


def _check_number(value: int, most: int, what: str) -> None:
    least = 1 if what == "port" else 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{what}: a number from {least} to {most} was expected, found {value!r}")
