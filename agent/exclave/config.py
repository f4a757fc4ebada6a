"""/etc/exclave/config.toml as a frozen tree, read through one door.

Rules: every key is optional; every mistake is reported, all at once, with its place; unknown keys are mistakes;
durations carry units. Nothing secret belongs here.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from exclave.cluster.labels import is_label_value
from exclave.errors import ConfigError
from exclave.kit.duration import parse_duration

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
    """What this machine says of itself: `address` overrides the one found by the route to the API server.

    `zone` is where it stands, by the names of the cluster's nodes' zones: nobody else knows it.
    """

    address: str | None = None
    zone: str | None = None


@dataclass(frozen=True)
class ProxyConfig:
    """The proxy: its binary, the user it runs as, its log filter, and how long it may drain (seconds)."""

    binary: Path = Path("/usr/lib/exclave/linkerd2-proxy")
    user: str = "exclave-proxy"
    log: str = "info"
    drain: float = 30.0


@dataclass(frozen=True)
class RedirectConfig:
    """Traffic never captured, beside what is never captured anyway: ports, networks (CIDR), users by name or id."""

    exclude_inbound_ports: tuple[int, ...] = ()
    exclude_outbound_ports: tuple[int, ...] = ()
    exclude_networks: tuple[str, ...] = ()
    exclude_users: tuple[str, ...] = ()


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
    config = Config(
        paths=Paths(**reader.table(tree, "paths", {"state": _path, "runtime": _path})),
        member=MemberConfig(**reader.table(tree, "member", {"address": _address, "zone": _zone})),
        proxy=ProxyConfig(
            **reader.table(tree, "proxy", {"binary": _path, "user": _text, "log": _text, "drain": _duration})
        ),
        redirect=RedirectConfig(
            **reader.table(
                tree,
                "redirect",
                {
                    "exclude_inbound_ports": _each(_port),
                    "exclude_outbound_ports": _each(_port),
                    "exclude_networks": _each(_network),
                    "exclude_users": _each(_text),
                },
            )
        ),
        listing=ListingConfig(**reader.table(tree, "listing", {"drain": _duration})),
    )
    reader.unknown(tree, {"paths", "member", "proxy", "redirect", "listing"}, "")
    if reader.mistakes:
        listed = "\n".join(f"  {mistake}" for mistake in reader.mistakes)
        raise ConfigError(f"{origin}:\n{listed}", "mend every line above; `exclave run --help` lists the keys")
    return config


Parse = Callable[[Any], Any]


class _Reader:
    """Collects mistakes instead of stopping at the first."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def table(self, tree: Mapping[str, Any], name: str, keys: Mapping[str, Parse]) -> dict[str, Any]:
        """The keys of one table that are there and right."""
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
                    self.mistakes.append(f"{name}.{key}: {problem}")
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
    return str(ip_address(_text(value)))


def _zone(value: Any) -> str:
    if not is_label_value(_text(value)):
        raise ValueError(f"a label's value such as eu-1a was expected, found {value!r}")
    return str(value)


def _network(value: Any) -> str:
    return str(ip_network(_text(value)))


def _port(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError(f"a port from 1 to 65535 was expected, found {value!r}")
    return value


def _duration(value: Any) -> float:
    return parse_duration(_text(value))


def _each(parse: Parse) -> Parse:
    def parse_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"a list was expected, found {value!r}")
        return tuple(parse(item) for item in value)

    return parse_list
