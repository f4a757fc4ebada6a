"""`/etc/exclave/config.toml` as frozen dataclasses. Every key is optional, and none is secret.

The fields below are the only list of keys: parsing, `exclave run --help`, the example file and the man page use it. All
mistakes are reported at once, each with its place.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from exclave.errors import ConfigError
from exclave.kit.formats.kubernetes import is_label_value
from exclave.kit.formats.proxy_url import check_proxy_url
from exclave.kit.formats.ranges import Span, parse_span
from exclave.kit.formats.times import parse_duration

DEFAULT_PATH = Path("/etc/exclave/config.toml")

# Turns a TOML value into a field's value. Raises ValueError or TypeError; each line of the text is one mistake.
Parse = Callable[[Any], Any]


# Values.


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


def _proxy_url(value: Any) -> str:
    return check_proxy_url(_text(value))


def _network(value: Any) -> str:
    return str(ip_network(_text(value)))


def _ports(value: Any) -> int | Span:
    ends = parse_span(value) if isinstance(value, str) else (value, value)
    if not all(isinstance(port, int) and not isinstance(port, bool) and 1 <= port <= 65535 for port in ends):
        raise ValueError(f'a port from 1 to 65535, or a range such as "8000-8100", was expected, found {value!r}')
    return ends if isinstance(value, str) else ends[0]


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
    """True if this is a network interface's name that is safe in an nftables rule."""
    return isinstance(name, str) and _INTERFACE.fullmatch(name) is not None and name not in (".", "..")


# The kernel accepts more characters, but no system uses them. Its limit is 15 (IFNAMSIZ, linux/if.h).
_INTERFACE = re.compile(r"[A-Za-z0-9._@-]{1,15}", re.ASCII)


def _duration(value: Any) -> float:
    return parse_duration(_text(value))


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1024:
        raise ValueError(f"a number from 1 to 1024 was expected, found {value!r}")
    return value


_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _size(value: Any) -> int:
    found = re.fullmatch(r"([1-9][0-9]*) ?([KMG]i?B)", _text(value))
    if found is None:
        raise ValueError(f"a size such as 500MB or 1GiB was expected, found {value!r}")
    return int(found[1]) * _UNITS[found[2]]


def _parse_list(parse: Parse, value: Any) -> tuple[Any, ...]:
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


# Tables and their keys.
# ruff: noqa: RUF009  `_key` makes a field, as `field` does


def _key(parse: Parse, toml: str, summary: str, **more: Any) -> Any:
    """A field for a key. `toml` is the default as TOML, or an example if `more` has another `default`."""
    metadata = {"parse": parse, "toml": toml, "summary": summary}
    if more:
        return field(default=more["default"], metadata=metadata)
    return field(default_factory=lambda: parse(_parse_toml(f"value = {toml}")["value"]), metadata=metadata)


def _parse_toml(text: str) -> dict[str, Any]:
    """The tree of a TOML text. Raises ValueError, ImportError."""
    # Imported late, so that a missing tomli is the error of a command, with its text and code.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    tree: dict[str, Any] = tomllib.loads(text)
    return tree


def _list(parse: Parse, toml: str, summary: str) -> Any:
    """A field for a key that is a list, by default an empty one. `toml` is an example."""
    return _key(partial(_parse_list, parse), toml, summary, default=())


@dataclass(frozen=True)
class Paths:
    """Folders of the agent."""

    state: Path = _key(_path, '"/var/lib/exclave"', "folder of the membership and the keys; must survive a reboot")
    runtime: Path = _key(_path, '"/run/exclave"', "folder of sockets and locks; must be empty after a reboot")


@dataclass(frozen=True)
class ClusterConfig:
    """How the agent reaches the API server."""

    proxy: str | None = _key(
        _proxy_url,
        '"http://proxy.example.org:3128"',
        "HTTP proxy to the API server; default: https_proxy of the environment, else the join token's",
        default=None,
    )
    no_proxy: tuple[str, ...] = _list(
        _text,
        '["10.0.0.0/8", ".example.org"]',
        "servers that are reached without it; default: no_proxy of the environment",
    )
    proxy_credentials: Path | None = _key(
        _path, '"/etc/exclave/proxy-credentials"', "file with USER:PASSWORD for it, of root, mode 0600", default=None
    )


@dataclass(frozen=True)
class MemberConfig:
    """This machine as the cluster is to know it."""

    address: str | None = _key(
        _address, '"10.0.0.5"', "this machine's address; default: the one that reaches the API server", default=None
    )
    captured_addresses: tuple[str, ...] = _list(
        _address, '["10.0.0.9"]', "other local addresses that pods connect to: a VIP, or behind NAT"
    )
    zone: str | None = _key(_zone, '"eu-1a"', "this machine's zone, as the cluster's nodes name it", default=None)


@dataclass(frozen=True)
class ProxyConfig:
    """The proxy. Durations are in seconds, sizes in bytes."""

    binary: Path = _key(_path, '"/var/lib/exclave-proxies/linkerd2-proxy"', "the proxy's program")
    user: str = _key(_text, '"exclave-proxy"', "the user that the proxy runs as")
    log: str = _key(_text, '"info"', "the proxy's log level or filter")
    drain: float = _key(_duration, '"30s"', "how long open connections may go on when this machine leaves")
    swap_bound: float = _key(_duration, '"10m"', "how long open connections may go on in a proxy that was replaced")
    memory_limit: int = _key(_size, '"1GiB"', "a proxy that uses more memory is replaced")
    cores: int | None = _key(
        _whole,
        "2",
        "the threads of the proxy that carry traffic; default: as the group or Linkerd sets it",
        default=None,
    )
    store: Path = _key(_path, '"/var/lib/exclave-proxies"', "folder of the proxies that are installed")
    mirror: str | None = _key(
        _text,
        '"registry.example.com/mirror"',
        "a registry that has the image in place of its own",
        default=None,
    )
    registry_ca_file: Path | None = _key(
        _path, '"/etc/exclave/registry-ca.pem"', "the registry's CA; default: those of this machine", default=None
    )
    registry_auth_file: Path | None = _key(
        _path, '"/etc/exclave/auth.json"', "passwords for registries, as docker login writes them", default=None
    )


@dataclass(frozen=True)
class RedirectConfig:
    """Traffic that is never captured, besides SSH and the like; and traffic that is captured in addition."""

    exclude_inbound_ports: tuple[int | Span, ...] = _list(
        _ports, '[9100, "8000-8100"]', "connections to these ports of this machine are not captured"
    )
    exclude_inbound_networks: tuple[str, ...] = _list(
        _network, '["10.9.0.0/16"]', "connections from these networks are not captured"
    )
    exclude_inbound_interfaces: tuple[str, ...] = _list(
        _interface, '["eth1"]', "connections that arrive on these interfaces are not captured"
    )
    exclude_outbound_ports: tuple[int | Span, ...] = _list(
        _ports, "[3306]", "connections from here to these ports are not captured"
    )
    exclude_outbound_networks: tuple[str, ...] = _list(
        _network, '["10.8.0.0/16"]', "connections from here to these networks are not captured"
    )
    exclude_outbound_interfaces: tuple[str, ...] = _list(
        _interface, '["docker0"]', "connections that leave by these interfaces are not captured"
    )
    exclude_users: tuple[str, ...] = _list(_account, '["backup", 1000]', "programs of these users are not captured")
    exclude_groups: tuple[str, ...] = _list(_account, '["ops"]', "programs of these groups are not captured")
    capture_interfaces: tuple[str, ...] = _list(
        _interface, '["docker0"]', "containers on these bridges call the cluster as programs here do"
    )


@dataclass(frozen=True)
class ListingConfig:
    """Waits of a machine that leaves the cluster. Durations are in seconds."""

    drain: float = _key(_duration, '"10s"', "time between withdrawing the ports and removing the rules")


@dataclass(frozen=True)
class Config:
    """All settings of one machine."""

    paths: Paths = field(default_factory=Paths, metadata={"summary": "folders of the agent"})
    member: MemberConfig = field(
        default_factory=MemberConfig, metadata={"summary": "this machine, as the cluster sees it"}
    )
    proxy: ProxyConfig = field(default_factory=ProxyConfig, metadata={"summary": "the proxy"})
    redirect: RedirectConfig = field(
        default_factory=RedirectConfig,
        metadata={"summary": "traffic that is not captured, and containers whose traffic is"},
    )
    listing: ListingConfig = field(default_factory=ListingConfig, metadata={"summary": "leaving the cluster"})
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata={"summary": "the way to the API server"})


@dataclass(frozen=True)
class Key:
    """A key of config.toml, for texts about it. `toml` is its default, or an example if `has_default` is false."""

    name: str
    toml: str
    summary: str
    has_default: bool


def config_keys() -> dict[tuple[str, str], list[Key]]:
    """All keys by (name, summary) of their table, in the order in which they are documented."""
    return {
        (name, summary): [
            Key(one.name, one.metadata["toml"], one.metadata["summary"], one.default not in (None, ()))
            for one in fields(table)
        ]
        for name, summary, table in _tables()
    }


def _tables() -> list[tuple[str, str, Any]]:
    """Name, summary and class of each table."""
    return [(one.name, one.metadata["summary"], one.default_factory) for one in fields(Config)]


# Reading.


def load_config(path: Path) -> Config:
    """Read a file. Without the file, all defaults hold. Raises ConfigError with every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}", "make it readable UTF-8 text") from problem
    return parse_config(text, str(path))


def parse_config(text: str, origin: str) -> Config:
    """Parse TOML text; `origin` names it in errors. Raises ConfigError with every mistake."""
    try:
        tree = _parse_toml(text)
    except ValueError as problem:
        raise ConfigError(f"{origin} is not TOML: {problem}", "correct that line") from None
    mistakes: list[str] = []
    config = _parse_tree(tree, mistakes)
    if mistakes:
        listed = "\n".join(mistakes)
        raise ConfigError(f"{origin}:\n{listed}", "correct every line above; `exclave run --help` lists the keys")
    return config


def salvage_config(path: Path) -> Config:
    """The valid part of a file, and defaults for the rest: a mistake must not prevent a clean-up."""
    try:
        return _parse_tree(_parse_toml(path.read_text(encoding="utf-8")), [])
    except (OSError, ValueError):
        return Config()


def _parse_tree(tree: Mapping[str, Any], mistakes: list[str]) -> Config:
    """The valid part of a file, with defaults for the rest. Adds to `mistakes`."""
    mistakes += _unknown_keys(tree, fields(Config), "")
    return Config(**{name: table(**_parse_table(tree, name, fields(table), mistakes)) for name, _, table in _tables()})


def _parse_table(
    tree: Mapping[str, Any], table: str, keys: tuple[Field[Any], ...], mistakes: list[str]
) -> dict[str, Any]:
    values = tree.get(table, {})
    if not isinstance(values, dict):
        mistakes.append(f"{table}: a table was expected, found {values!r}")
        return {}
    mistakes += _unknown_keys(values, keys, f"{table}.")
    valid: dict[str, Any] = {}
    for key in keys:
        if key.name in values:
            try:
                valid[key.name] = key.metadata["parse"](values[key.name])
            except (TypeError, ValueError) as problem:
                mistakes += [f"{table}.{key.name}: {line}" for line in str(problem).splitlines()]
    return valid


def _unknown_keys(values: Mapping[str, Any], keys: tuple[Field[Any], ...], prefix: str) -> list[str]:
    """The unknown keys, as mistakes: a misspelt key must not pass for a setting."""
    return [f"{prefix}{name}: no such key" for name in values if name not in {key.name for key in keys}]
