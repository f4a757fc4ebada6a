"""What to hand to the proxy, as a value: every number and name that a ruleset will hold, checked. Pure.

Rules: `make_policy` is the only way in from settings and configuration; RedirectPolicy checks itself, so that nothing
unchecked is ever written into a ruleset. Never captured, whatever anybody configures: SSH in both directions, the API
server, loopback, link-local and metadata addresses, multicast, the private link itself, and the proxy's own traffic.
Ports and users that are excluded are never captured either, also if the group lists them.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from exclave.config import RedirectConfig
from exclave.member.settings import Settings
from exclave.redirect.layout import INBOUND_PORT, INSTANCES, NETWORK6, Family, Instance

SSH_PORT = 22

METADATA = (
    "100.100.100.200/32",  # Alibaba
    "168.63.129.16/32",  # Azure's host: health of the machine, DHCP, DNS
    "fd00:c1::a9fe:a9fe/128",  # Oracle
    "fd00:ec2::/32",  # Amazon: metadata, DNS, time, pod identity
    "fd20:ce::254/128",  # Google
)
"""Clouds' own services outside of link-local, some inside of what Linkerd takes for the cluster's networks by default
(100.64.0.0/10, fd00::/8). Source: the clouds' documentation; cloud-init has those of Amazon, Oracle and Alibaba."""

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
"""Networks that no choice captures."""

Network = IPv4Network | IPv6Network

FAMILIES: tuple[Family, Family] = (4, 6)


@dataclass(frozen=True)
class Server:
    """An API server as traffic sees it."""

    address: str
    port: int


@dataclass(frozen=True)
class RedirectPolicy:
    """One ruleset's content.

    `addresses` are the VM's own in the mesh; `networks` what is captured outbound (CIDR), None for everything;
    `families` those that the proxy listens on for outbound traffic; `outbound` or `inbound` False lets that traffic
    pass by the proxy. Raises ValueError naming the value that is wrong.
    """

    instance: Instance
    addresses: tuple[str, ...]
    inbound_ports: tuple[int, ...]
    networks: tuple[str, ...] | None
    proxy_uid: int
    exempt_inbound_ports: tuple[int, ...] = ()
    exempt_outbound_ports: tuple[int, ...] = ()
    exempt_networks: tuple[str, ...] = ()
    exempt_uids: tuple[int, ...] = ()
    servers: tuple[Server, ...] = ()
    families: tuple[Family, ...] = FAMILIES
    outbound: bool = True
    inbound: bool = True

    def __post_init__(self) -> None:
        if self.instance not in INSTANCES:
            raise ValueError(f"instance: a or b was expected, found {self.instance!r}")
        for address in self.addresses:
            _check_own(address)
        for server in self.servers:
            _check_address(server.address)
        for network in (*(self.networks or ()), *self.exempt_networks):
            _check_network(network)
        for family in self.families:
            if family not in FAMILIES:
                raise ValueError(f"family: 4 or 6 was expected, found {family!r}")
        for port in (*self.inbound_ports, *self.exempt_inbound_ports, *self.exempt_outbound_ports):
            _check_number(port, 65535, "port")
        for server in self.servers:
            _check_number(server.port, 65535, "port")
        for uid in (self.proxy_uid, *self.exempt_uids):
            _check_number(uid, 2**32 - 2, "user id")
        if self.proxy_uid == 0:
            raise ValueError("user id: the proxy cannot run as root, whose traffic would all pass by it")

    def captured_ports(self) -> tuple[int, ...]:
        """Inbound ports that go to the proxy: the group's, less what is exempt, and in any case the proxy's own."""
        exempt = {SSH_PORT, *self.exempt_inbound_ports}
        return tuple(sorted({INBOUND_PORT} | (set(self.inbound_ports) - exempt)))

    def passed_ports(self) -> tuple[int, ...]:
        """Outbound ports that pass by the proxy."""
        return tuple(sorted({SSH_PORT, *self.exempt_outbound_ports}))

    def passed_networks(self) -> tuple[Network, ...]:
        """Outbound networks that pass by the proxy."""
        return tuple(ip_network(network) for network in (*NEVER_CAPTURED, *self.exempt_networks))


def make_policy(
    settings: Settings,
    config: RedirectConfig,
    *,
    instance: Instance,
    address: str,
    proxy_uid: int,
    servers: tuple[Server, ...],
    exempt_uids: tuple[int, ...] = (),
    ssh_ports: tuple[int, ...] = (),
    families: tuple[Family, ...] = FAMILIES,
    outbound_open: bool = False,
    inbound_open: bool = False,
) -> RedirectPolicy:
    """The policy for these settings on this machine. Raises ValueError naming the value that is wrong.

    `servers` are the API server's addresses, `ssh_ports` where sshd listens beside 22, `exempt_uids` the numbers of
    the configuration's users, `families` those that the proxy listens on for outbound traffic; `outbound_open` and
    `inbound_open` let such traffic pass by a proxy that is dead.
    """
    capture = settings.group.capture
    networks: tuple[str, ...] | None = ()
    if capture == "all":
        networks = None
    elif capture == "cluster":
        # Linkerd reads 10.1.2.3/8 as 10.0.0.0/8, too.
        networks = tuple(str(ip_network(network, strict=False)) for network in settings.linkerd.cluster_networks)
    return RedirectPolicy(
        instance=instance,
        addresses=(str(ip_address(address)),),
        inbound_ports=tuple(port.port for port in settings.group.ports),
        networks=networks,
        proxy_uid=proxy_uid,
        exempt_inbound_ports=tuple(sorted({*config.exclude_inbound_ports, *ssh_ports})),
        exempt_outbound_ports=tuple(sorted({*config.exclude_outbound_ports, *ssh_ports})),
        exempt_networks=config.exclude_networks,
        exempt_uids=exempt_uids,
        servers=servers,
        families=families,
        outbound=not outbound_open,
        inbound=not inbound_open,
    )


def _check_address(given: str) -> IPv4Address | IPv6Address:
    address = ip_address(given)
    # A zone such as fe80::1%eth0 may hold any character, and so rules of its own.
    if "%" in given or str(address) != given:
        raise ValueError(f"address: {str(address).partition('%')[0]} was expected, found {given!r}")
    return address


def _check_own(given: str) -> None:
    address = _check_address(given)
    if address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast:
        raise ValueError(f"address: one that others reach this machine at was expected, found {given!r}")


def _check_network(given: str) -> None:
    network = ip_network(given)
    if "%" in given or str(network) != given:
        raise ValueError(f"network: {str(network).partition('%')[0]} was expected, found {given!r}")


def _check_number(value: int, most: int, what: str) -> None:
    least = 1 if what == "port" else 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{what}: a number from {least} to {most} was expected, found {value!r}")
