"""What to hand to the proxy, as a value: every number and name that a ruleset will hold, checked. Pure.

Rules: `make_policy` is the only way in from settings and configuration; RedirectPolicy checks itself, so that nothing
unchecked is ever written into a ruleset. Never captured, whatever anybody configures: SSH in both directions, the API
server, loopback, link-local and metadata addresses, multicast, the private link itself, and the proxy's own traffic.
"""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from exclave.config import RedirectConfig
from exclave.member.settings import Settings
from exclave.redirect.layout import INBOUND_PORT, INSTANCES, NETWORK4, NETWORK6, Instance

SSH_PORT = 22

NEVER_CAPTURED = (
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local: cloud metadata, and the private link
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
    str(NETWORK4),
    str(NETWORK6),
)
"""Networks that no choice captures."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Server:
    """An API server as traffic sees it."""

    address: str
    port: int


@dataclass(frozen=True)
class RedirectPolicy:
    """One ruleset's content.

    `addresses` are the VM's own in the mesh; `networks` what is captured outbound (CIDR), None for everything;
    `outbound` False lets outbound traffic pass by the proxy, inbound stays captured. Raises ValueError naming the
    value that is wrong.
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
    outbound: bool = True

    def __post_init__(self) -> None:
        if self.instance not in INSTANCES:
            raise ValueError(f"instance: a or b was expected, found {self.instance!r}")
        for address in (*self.addresses, *(server.address for server in self.servers)):
            _check(address, str(ip_address(address)), "address")
        for network in (*(self.networks or ()), *self.exempt_networks):
            _check(network, str(ip_network(network)), "network")
        for port in (*self.inbound_ports, *self.exempt_inbound_ports, *self.exempt_outbound_ports):
            _check_number(port, 65535, "port")
        for server in self.servers:
            _check_number(server.port, 65535, "port")
        for uid in (self.proxy_uid, *self.exempt_uids):
            _check_number(uid, 2**32 - 2, "user id")
        if self.proxy_uid == 0:
            raise ValueError("user id: the proxy cannot run as root, whose traffic would all pass by it")

    @property
    def digest(self) -> str:
        """16 hex digits that name this content."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def captured_ports(self) -> tuple[int, ...]:
        """Inbound ports that go to the proxy: the group's and the proxy's own, less what is exempt."""
        exempt = {SSH_PORT, *self.exempt_inbound_ports}
        return tuple(sorted({INBOUND_PORT, *self.inbound_ports} - exempt))

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
    outbound_open: bool = False,
) -> RedirectPolicy:
    """The policy for these settings on this machine.

    `servers` are the API server's addresses, `ssh_ports` where sshd listens beside 22, `exempt_uids` the numbers of
    the configuration's users, `outbound_open` lets outbound traffic pass by a proxy that is dead.
    """
    capture = settings.group.capture
    networks: tuple[str, ...] | None = ()
    if capture == "all":
        networks = None
    elif capture == "cluster":
        networks = tuple(str(ip_network(network)) for network in settings.linkerd.cluster_networks)
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
        outbound=not outbound_open,
    )


def _check(given: str, normal: str, what: str) -> None:
    if given != normal:
        raise ValueError(f"{what}: {normal} was expected, found {given!r}")


def _check_number(value: int, most: int, what: str) -> None:
    least = 1 if what == "port" else 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{what}: a number up to {most} was expected, found {value!r}")
