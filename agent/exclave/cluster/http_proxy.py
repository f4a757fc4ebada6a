"""The HTTP proxy by which the API server is reached, and the servers that are reached without it. Pure.

Only the agent's own requests to the API server use it. Sources of the rules for names: golang.org/x/net/http/httpproxy,
which kubectl has, and RFC 9110, section 9.3.6 (CONNECT).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import unquote

from exclave.kit.formats.proxy_url import check_proxy_url

MOST_LOGIN = 1024  # bytes


@dataclass(frozen=True)
class HttpProxy:
    """A proxy for API servers.

    `bypass`: entries of `no_proxy`. `login_file` contains `user:password`; `login` is that of the environment's URL.
    """

    url: str  # http://HOST:PORT, without a login
    bypass: tuple[str, ...] = ()
    login_file: Path | None = None
    login: tuple[str, str] | None = field(default=None, repr=False)

    def serves(self, host: str, port: int) -> bool:
        """True if this server is reached through the proxy."""
        return not any(_matches(entry, host.lower(), port) for entry in self.bypass)


def split_login(line: bytes) -> tuple[str, str]:
    """User and password of the content of a file. Raises ValueError, whose text does not quote it."""
    user, colon, password = line.strip().partition(b":")
    if not user or not colon or len(line) > MOST_LOGIN or len(line.split()) != 1:
        raise ValueError("one line USER:PASSWORD was expected")
    try:
        return user.decode(), password.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None


def choose_proxy(
    configured: str | None, bypass: Iterable[str], login_file: Path | None, offered: str, environment: Mapping[str, str]
) -> HttpProxy | None:
    """The proxy of config.toml, else of the environment (`https_proxy`), else `offered` by the join token.

    A value of the environment that is no HTTP proxy is not used.
    """
    bypassed = tuple(bypass) or _listed(_variable(environment, "no_proxy"))
    if configured is not None:
        return HttpProxy(configured, bypassed, login_file)
    if (found := _proxy_of(_variable(environment, "https_proxy"))) is not None:
        url, login = found
        return HttpProxy(url, (*bypassed, *_LOOPBACK), login_file, login)
    return HttpProxy(offered, bypassed, login_file) if offered else None


_LOOPBACK = ("localhost", "127.0.0.0/8", "::1/128")  # never through a proxy of the environment, as with kubectl


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _proxy_of(text: str) -> tuple[str, tuple[str, str] | None] | None:
    scheme, _, rest = text.rpartition("://")
    login, at, place = rest.rpartition("@")
    try:
        url = check_proxy_url(f"{scheme}://{place}" if scheme else place) if place else None
    except ValueError:
        return None
    user, _, password = login.partition(":")
    return None if url is None else (url, (unquote(user), unquote(password)) if at else None)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(entry for entry in text.replace(",", " ").split() if entry)


def _matches(entry: str, host: str, port: int) -> bool:
    entry = entry.strip().lower()
    if entry == "*":
        return True
    name, of_port = _split_port(entry)
    if of_port not in (None, port):
        return False
    try:
        return ip_address(host) in ip_network(name, strict=False)
    except ValueError:
        pass  # one of them is a name
    name = name.removeprefix("*")
    return bool(name) and (host.endswith(name if name.startswith(".") else f".{name}") or host == name)


def _split_port(entry: str) -> tuple[str, int | None]:
    name, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdecimal() and (":" not in name or name.endswith("]")):
        return name.strip("[]"), int(port)
    return entry.strip("[]"), None
