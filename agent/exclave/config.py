"""/etc/exclave/config.toml as a frozen tree, read through one door.

Rules: every key is optional; every mistake is reported, all at once, with its place; unknown keys are mistakes;
durations carry units. Nothing secret belongs here.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from exclave.errors import ConfigError
from exclave.kit.formats.duration import parse_duration
from exclave.kit.formats.labels import is_label_value
from exclave.kit.formats.ranges import Span, parse_span

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PATH = Path("/etc/exclave/config.toml")


@dataclass(frozen=True)
class Paths:
    """Folders of the agent: `state` outlives reboots, `runtime` does not."""

    state: Path = Path("/var/lib/exclave")
    runtime: Path = Path("/run/exclave")


@dataclass(frozen=True)
class MemberConfig:
    """What this machine says of itself.

    `address` overrides the one found by the route to the API server. `captured_addresses` are more local addresses
    that connections from the mesh arrive at: a VIP, or what a NAT in front makes of the address. `zone` is where it
    stands, by the names of the cluster's nodes' zones: nobody else knows it.
    """

    address: str | None = None
    captured_addresses: tuple[str, ...] = ()
    zone: str | None = None


@dataclass(frozen=True)
class ProxyConfig:
    """The proxy: its binary, the user it runs as, its log filter, and how long it may drain (seconds).

    `swap_bound` is how long one that was replaced may serve what it has, in seconds; one that holds more memory than
    `memory_limit` (bytes) is replaced.
    """

    binary: Path = Path("/usr/lib/exclave/linkerd2-proxy")
    user: str = "exclave-proxy"
    log: str = "info"
    drain: float = 30.0
    swap_bound: float = 600.0
    memory_limit: int = 2**30


@dataclass(frozen=True)
class RedirectConfig:
    """Traffic never captured, beside what is never captured anyway; and whose traffic is captured in addition.

    Ports are numbers or ranges (first, last); networks are CIDR: inbound, those that callers are in; users and groups
    are names or numbers, and are those of local programs. `capture_interfaces` are bridges such as docker0: what
    containers behind them send to the cluster's networks is captured, too.
    """

    exclude_inbound_ports: tuple[int | Span, ...] = ()
    exclude_inbound_networks: tuple[str, ...] = ()
    exclude_inbound_interfaces: tuple[str, ...] = ()
    exclude_outbound_ports: tuple[int | Span, ...] = ()
    exclude_outbound_networks: tuple[str, ...] = ()
    exclude_outbound_interfaces: tuple[str, ...] = ()
    exclude_users: tuple[str, ...] = ()
    exclude_groups: tuple[str, ...] = ()
    capture_interfaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListingConfig:
    """Leaving: seconds between the ports' withdrawal and the rules', so that pods have heard."""

    drain: float = 10.0


@dataclass(frozen=True)
class Config:
    """All settings of one machine."""

    paths: Paths = Paths()
    member: MemberConfig = MemberConfig()
    proxy: ProxyConfig = ProxyConfig()
    redirect: RedirectConfig = RedirectConfig()
    listing: ListingConfig = ListingConfig()


def load_config(path: Path) -> Config:
    """Read a file; one that is absent means all defaults. Raises ConfigError listing every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}", "make it readable UTF-8 text") from problem
    return parse_config(text, str(path))


def parse_config(text: str, origin: str) -> Config:
    """Read TOML text; `origin` names it in errors. Raises ConfigError listing every mistake."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{origin} is not TOML: {problem}", "mend that line") from None
    reader = _Reader()
    config = reader.config(tree)
    if reader.mistakes:
        listed = "\n".join(f"  {mistake}" for mistake in reader.mistakes)
        raise ConfigError(f"{origin}:\n{listed}", "mend every line above; `exclave run --help` lists the keys")
    return config


def salvage_config(path: Path) -> Config:
    """What is right of a file, and defaults for the rest: for a clean-up, which no mistake may keep from its work."""
    try:
        return _Reader().config(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return Config()


Parse = Callable[[Any], Any]


class _Reader:
    """Collects mistakes instead of stopping at the first."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def config(self, tree: Mapping[str, Any]) -> Config:
        """What is right of a file, with defaults for the rest."""
        self.unknown(tree, set(_KEYS), "")
        return Config(
            paths=Paths(**self.table(tree, "paths")),
            member=MemberConfig(**self.table(tree, "member")),
            proxy=ProxyConfig(**self.table(tree, "proxy")),
            redirect=RedirectConfig(**self.table(tree, "redirect")),
            listing=ListingConfig(**self.table(tree, "listing")),
        )

    def table(self, tree: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The keys of one table that are there and right."""
        keys = _KEYS[name]
        table = tree.get(name, {})
        if not isinstance(table, dict):
            self.mistakes.append(f"{name}: a table was expected, found {table!r}")
            return {}
        self.unknown(table, set(keys), f"{name}.")
        right: dict[str, Any] = {}
        for key, parse in keys.items():
            if key in table:
                try:
                    right[key] = parse(table[key])
                except (TypeError, ValueError) as problem:
                    self.mistakes += [f"{name}.{key}: {line}" for line in str(problem).splitlines()]
        return right

    def unknown(self, table: Mapping[str, Any], known: set[str], prefix: str) -> None:
        """Note keys that nobody reads: a typing mistake must not pass for a setting."""
        self.mistakes += [f"{prefix}{key}: no such key" for key in table if key not in known]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"text was expected, found {value!r}")
    return value


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError(f"an absolute path was expected, found {value!r}")
    return path


def _address(value: Any) -> str:
    address = ip_address(_text(value))
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        raise ValueError(f"an address that others reach this machine at was expected, found {value!r}")
    return str(address)


def _zone(value: Any) -> str:
    if not is_label_value(_text(value)):
        raise ValueError(f"a label's value such as eu-1a was expected, found {value!r}")
    return str(value)


def _network(value: Any) -> str:
    return str(ip_network(_text(value)))


def _ports(value: Any) -> int | Span:
    given = parse_span(value) if isinstance(value, str) else (value, value)
    if not all(isinstance(port, int) and not isinstance(port, bool) and 1 <= port <= 65535 for port in given):
        raise ValueError(f'a port from 1 to 65535, or a range such as "8000-8100", was expected, found {value!r}')
    return given if isinstance(value, str) else given[0]


def _account(value: Any) -> str:
    """A user or group: its name, or its number as text."""
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value
    if isinstance(number, int) and not isinstance(number, bool):
        if not 0 <= number <= 2**32 - 2:
            raise ValueError(f"a name, or a number from 0 to 4294967294, was expected, found {value!r}")
        return str(number)
    if not isinstance(value, str) or not value:
        raise ValueError(f"a name, or a number from 0 to 4294967294, was expected, found {value!r}")
    return value


def _interface(value: Any) -> str:
    if not is_interface(value):
        raise ValueError(f"an interface's name such as eth0 was expected, found {value!r}")
    return str(value)


def is_interface(name: Any) -> bool:
    """Whether this is the name of a network interface that may stand in a rule: nothing that a shell or nft reads.

    The kernel takes more, but no system makes such names; its limit is 15 characters (IFNAMSIZ, linux/if.h).
    """
    return isinstance(name, str) and _INTERFACE.fullmatch(name) is not None and name not in (".", "..")


_INTERFACE = re.compile(r"[A-Za-z0-9._@-]{1,15}", re.ASCII)


def _duration(value: Any) -> float:
    return parse_duration(_text(value))


_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _size(value: Any) -> int:
    found = re.fullmatch(r"([1-9][0-9]*) ?([KMG]i?B)", _text(value))
    if found is None:
        raise ValueError(f"a size such as 500MB or 1GiB was expected, found {value!r}")
    return int(found[1]) * _UNITS[found[2]]


def _each(parse: Parse) -> Parse:
    def parse_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"a list was expected, found {value!r}")
        right, wrong = [], []
        for item in value:
            try:
                right.append(parse(item))
            except (TypeError, ValueError) as problem:
                wrong.append(str(problem))
        if wrong:
            raise ValueError("\n".join(wrong))
        return tuple(right)

    return parse_list


_KEYS: Mapping[str, Mapping[str, Parse]] = {
    "paths": {"state": _path, "runtime": _path},
    "member": {"address": _address, "captured_addresses": _each(_address), "zone": _zone},
    "proxy": {
        "binary": _path,
        "user": _text,
        "log": _text,
        "drain": _duration,
        "swap_bound": _duration,
        "memory_limit": _size,
    },
    "redirect": {
        "exclude_inbound_ports": _each(_ports),
        "exclude_inbound_networks": _each(_network),
        "exclude_inbound_interfaces": _each(_interface),
        "exclude_outbound_ports": _each(_ports),
        "exclude_outbound_networks": _each(_network),
        "exclude_outbound_interfaces": _each(_interface),
        "exclude_users": _each(_account),
        "exclude_groups": _each(_account),
        "capture_interfaces": _each(_interface),
    },
    "listing": {"drain": _duration},
}
"""Every table and key, with what reads its value."""
