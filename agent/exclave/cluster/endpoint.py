"""How the API server is reached: addresses (only https), the CA of its certificate, and a proxy. Pure."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from exclave.cluster.http_proxy import HttpProxy


@dataclass(frozen=True)
class Access:
    """One cluster.

    `servers`: its API servers' https URLs. `ca`: one PEM certificate or more; "": the CAs that this machine trusts.
    `tls_name`: the name that the servers' certificates have, and the SNI; "": the one in each URL.
    """

    servers: tuple[str, ...]
    ca: str
    tls_name: str = ""
    proxy: HttpProxy | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if there is no server, a URL is not https, or there is no certificate."""
        if not self.servers:
            raise ValueError("at least one API server was expected")
        for server in self.servers:
            host_and_port(server)
        if self.ca and "-----BEGIN CERTIFICATE-----" not in self.ca:
            raise ValueError("the CA must be one PEM certificate or more")

    def proxy_for(self, server: str) -> HttpProxy | None:
        """The proxy by which a server is reached; None if it is reached directly."""
        return self.proxy if self.proxy is not None and self.proxy.serves(*host_and_port(server)) else None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """URLs of what this machine connects to: for each server its proxy, or the server itself."""
        proxies = {server: self.proxy_for(server) for server in self.servers}
        return tuple(dict.fromkeys(proxy.url if proxy else server for server, proxy in proxies.items()))


@dataclass(frozen=True)
class ServerAddress:
    """The address that an API server listens on: IP address without a zone, and TCP port."""

    address: str
    port: int


def host_and_port(server: str) -> tuple[str, int]:
    """Host and port of an API server's URL; an IPv6 address is without brackets. Raises ValueError."""
    return _split(server, "https")


def endpoint_host_and_port(url: str) -> tuple[str, int]:
    """The same of an API server or of its proxy. Raises ValueError."""
    return _split(url, "http" if url.startswith("http:") else "https")


def _split(server: str, scheme: str) -> tuple[str, int]:
    parts = urlsplit(server)
    if parts.scheme != scheme or not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{server!r} is not a URL such as https://10.0.0.1:6443")
    return parts.hostname, parts.port or (443 if scheme == "https" else 80)


def address_in_url(server: str) -> str | None:
    """The IP address in the URL of an API server or proxy, without its zone; None for a name. Raises ValueError."""
    host, _ = endpoint_host_and_port(server)
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return None


def in_turn(servers: tuple[str, ...], last_good: str) -> tuple[str, ...]:
    """The order in which servers are tried: the last one that worked, then the others in the given order."""
    return tuple(sorted(servers, key=lambda server: server != last_good))
