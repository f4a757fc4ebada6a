"""The address of the API server (only https), and the CA of its certificate (only the join token's). Pure."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Access:
    """One cluster: its API servers' https URLs, and its CA: one PEM certificate or more."""

    servers: tuple[str, ...]
    ca: str

    def __post_init__(self) -> None:
        """Raise ValueError if there is no server, a URL is not https, or there is no certificate."""
        if not self.servers:
            raise ValueError("at least one API server was expected")
        for server in self.servers:
            host_and_port(server)
        if "-----BEGIN CERTIFICATE-----" not in self.ca:
            raise ValueError("the CA must be one PEM certificate or more")


@dataclass(frozen=True)
class ServerAddress:
    """The address that an API server listens on: IP address without a zone, and TCP port."""

    address: str
    port: int


def host_and_port(server: str) -> tuple[str, int]:
    """Host and port of an API server's URL; an IPv6 address is without brackets. Raises ValueError."""
    parts = urlsplit(server)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{server!r} is not a URL such as https://10.0.0.1:6443")
    return parts.hostname, parts.port or 443


def address_in_url(server: str) -> str | None:
    """The IP address in an API server's URL, without its zone; None if the URL has a name. Raises ValueError."""
    host, _ = host_and_port(server)
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return None


def in_turn(servers: tuple[str, ...], last_good: str) -> tuple[str, ...]:
    """The order in which servers are tried: the last one that worked, then the others in the given order."""
    return tuple(sorted(servers, key=lambda server: server != last_good))
