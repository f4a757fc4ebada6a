"""Reads ConfigMap `linkerd-config`: what Linkerd's chart was installed with, as YAML under the key `values`. Pure.

As Linkerd reads it: numbers and booleans become texts where a text belongs, unknown keys are ignored. A value that
cannot be right is refused by the name of its key, its last good value is used, and all else is read.
Sources: linkerd2 charts/linkerd-control-plane/values.yaml, pkg/charts/linkerd2/values.go, sigs.k8s.io/yaml.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from math import isfinite
from typing import Any, TypeVar

import yaml

from exclave.api import fields
from exclave.api.group import INBOUND_POLICIES, MOST_CORES
from exclave.api.malformed import mapping_in
from exclave.api.requests import Object
from exclave.api.settings import LinkerdSettings, Workers, is_parameter

T = TypeVar("T")

CONFIG = "ConfigMap linkerd-config"

# What holds in place of a refused value, if there is no last good one: the chart's networks, and a policy that opens
# nothing. A domain has no substitute: wrong names would be certified.
NETWORKS: tuple[str, ...] = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")
CLOSED = "deny"

MOST_SHOWN = 5  # parts of a list that an error names

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"(?!.{{254}}){_LABEL}(?:\.{_LABEL})*")
_NETWORK = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")


class _Loader(yaml.SafeLoader):
    """As Linkerd's YAML library reads for a text: a date is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass
class _Reader:
    """Reads keys of `values`. `faults`: why a key is refused, by its name."""

    values: Mapping[str, Any]
    last_good: LinkerdSettings | None
    faults: dict[str, str] = field(default_factory=dict)

    def read(self, key: str, read: Callable[[object], T], name: str, fallback: T) -> T:
        """The value at a key such as `proxy.opaquePorts`; else the field `name` of the last good, or the fallback."""
        found: object = self.values
        parts = key.split(".")
        try:
            for depth, part in enumerate(parts):
                if found is not None and not isinstance(found, dict):
                    key = ".".join(parts[:depth])
                    raise ValueError(f"a mapping was expected, found {fields.shown(found)}")
                found = None if found is None else found.get(part)
            return read(found)
        except ValueError as problem:
            self.faults[key] = str(problem)
        good: T = getattr(self.last_good, name) if self.last_good is not None else fallback
        return good


def read_linkerd(
    config_map: Object, namespace: str, last_good: LinkerdSettings | None = None
) -> tuple[LinkerdSettings | None, dict[str, str]]:
    """What `linkerd-config` states, and why keys are refused, by their names. None without a trust domain.

    In place of a refused value holds that of `last_good`.
    """
    try:
        values = yaml.load((config_map.get("data") or {})["values"], _Loader)  # noqa: S506 - derived from SafeLoader
    except (KeyError, RecursionError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        values = None
    if not isinstance(values, dict):
        return last_good, {"values": "YAML with a mapping was expected"}
    reader = _Reader(values, last_good)
    domain = reader.read("clusterDomain", _domain, "cluster_domain", "")
    trusted = domain
    if values.get("identityTrustDomain") not in (None, ""):
        trusted = reader.read("identityTrustDomain", _domain, "trust_domain", "")
    proxy = mapping_in(values, "proxy")
    image = proxy.get("image")
    has_image = image.get("version") not in (None, "") if isinstance(image, dict) else image is not None
    version = "proxy.image.version" if has_image else "linkerdVersion"
    found = LinkerdSettings(
        namespace=namespace,
        trust_domain=trusted,
        cluster_domain=domain,
        proxy_version=reader.read(version, _text, "proxy_version", ""),
        inbound_policy=reader.read("proxy.defaultInboundPolicy", _policy, "inbound_policy", CLOSED),
        # Without a last good list, the entries that can be read: the destination controller skips others, too.
        opaque_ports=reader.read(
            "proxy.opaquePorts", _ports, "opaque_ports", _readable_ports(proxy.get("opaquePorts"))
        ),
        workers=_workers(proxy),
        parameters=dict(sorted(_parameters(proxy))),
        cluster_networks=_cluster_networks(reader),
        proxy_image=reader.read("proxy.image.name", _image, "proxy_image", ""),
    )
    return (found if trusted and domain else None), reader.faults


def config_fault(faults: Mapping[str, str]) -> str | None:
    """The faults of keys as one text, None without any."""
    found = "; ".join(f"{'' if key == 'values' else 'values.'}{key}: {fault}" for key, fault in faults.items())
    return f"{CONFIG}: {found}" if found else None


def _scalar(found: object) -> str | None:
    """A text. A number or a boolean is one, too, as in sigs.k8s.io/yaml; None for another type."""
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, float) and not isfinite(found):
        return None
    return str(found) if isinstance(found, (str, int, float)) else None


def _text(found: object) -> str:
    text = "" if found is None else _scalar(found)
    if text is None or len(text) > fields.LONGEST_TEXT or not text.isprintable():
        raise ValueError(f"a text was expected, found {fields.shown(found)}")
    return text


def _image(found: object) -> str:
    return _text(found) or "cr.l5d.io/linkerd/proxy"  # the chart's default


def _domain(found: object) -> str:
    text = _text(found)
    if not _DOMAIN.fullmatch(text):
        raise ValueError(f"a domain such as cluster.local was expected, found {fields.shown(found)}")
    return text


def _policy(found: object) -> str:
    text = _text(found) or "all-unauthenticated"  # the chart's default
    if text not in INBOUND_POLICIES:
        raise ValueError(f"one of {', '.join(INBOUND_POLICIES)} was expected, found {fields.shown(found)}")
    return text


def _cluster_networks(reader: _Reader) -> tuple[str, ...]:
    networks = reader.read("clusterNetworks", _networks, "cluster_networks", NETWORKS)
    is_off = reader.values.get("disableIPv6")
    if is_off is not None and not isinstance(is_off, bool):  # of another type Linkerd can read nothing at all
        reader.faults["disableIPv6"] = f"true or false was expected, found {fields.shown(is_off)}"
        return networks if reader.last_good is None else reader.last_good.cluster_networks
    return tuple(network for network in networks if ":" not in network) if is_off else networks


def _networks(found: object) -> tuple[str, ...]:
    parts = _items(_list_text(found))
    wrong = [part for part in parts if not _is_network(part)]
    if wrong or not parts:
        shown = ", ".join(map(fields.shown, wrong[:MOST_SHOWN])) or "none"
        raise ValueError(f"networks such as 10.0.0.0/8 were expected, found {shown}")
    return tuple(parts)


def _is_network(text: str) -> bool:
    """True for what Go's net.ParseCIDR accepts: an address with the length of its prefix. Host bits may be set."""
    try:
        return bool(_NETWORK.fullmatch(text)) and ip_network(text, strict=False) is not None
    except ValueError:
        return False


def _ports(found: object) -> str:
    parts = _items(_list_text(found))
    wrong = [part for part in parts if _port(part) is None]
    if wrong:
        shown = ", ".join(map(fields.shown, wrong[:MOST_SHOWN]))
        raise ValueError(f"ports and ranges such as 25,8000-8100 were expected, found {shown}")
    return ",".join(map(str, map(_port, parts)))


def _readable_ports(found: object) -> str:
    try:
        return ",".join(port for part in _items(_list_text(found)) if (port := _port(part)) is not None)
    except ValueError:
        return ""


def _port(text: str) -> str | None:
    """A port or a range as Linkerd reads it, without spaces; None if it is neither."""
    ends = [end.strip() for end in text.split("-")]
    if len(ends) > 2 or not all(re.fullmatch("[0-9]{1,5}", end, re.ASCII) for end in ends):
        return None
    numbers = [int(end) for end in ends]
    return "-".join(map(str, numbers)) if 0 < numbers[0] <= numbers[-1] <= 65535 else None


def _list_text(found: object) -> str:
    """A text with commas, which may have several lines."""
    text = "" if found is None else _scalar(found)
    if text is None or len(text) > fields.LONGEST_LINES:
        raise ValueError(f"a text with commas was expected, found {fields.shown(found)}")
    return text


def _items(text: str) -> list[str]:
    """The entries between commas. Linkerd ignores a comma at the end."""
    found = [item for part in text.split(",") if (item := part.strip())]
    if len(found) > fields.MOST_ENTRIES:
        raise ValueError(f"at most {fields.MOST_ENTRIES} entries were expected, found {len(found)}")
    return found


def _workers(proxy: Mapping[str, Any]) -> Workers:
    """As the chart reads them. Values that the proxy would ignore with a warning are left out."""
    if (cores := _count(proxy.get("cores"))) is not None:  # deprecated by `runtime`, and stronger
        return Workers(cores)
    found = mapping_in(mapping_in(proxy, "runtime"), "workers")
    ratio = _number(found.get("maximumCPURatio"))
    return Workers(
        _count(found.get("minimum")) or 1,
        _count(found.get("maximum")),
        ratio if ratio is not None and 0 < ratio <= 1 else None,
    )


def _parameters(proxy: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The variables that the chart makes from `proxy.inbound` and `proxy.outbound`, as far as they concern HTTP/2."""
    for direction in ("inbound", "outbound"):
        for scope, protocols in mapping_in(proxy, direction).items():
            for protocol, parameters in _pairs(protocols):
                for key, value in _pairs(parameters):
                    name = "_".join(_snake_case(part) for part in (direction, scope, protocol, key))
                    if value is not None and is_parameter(name, str(value)):
                        yield name, str(value)


def _pairs(found: object) -> list[tuple[str, object]]:
    return [(str(key), value) for key, value in found.items()] if isinstance(found, dict) else []


def _snake_case(key: str) -> str:
    """`keepAliveInterval` as `KEEP_ALIVE_INTERVAL`; source: snakecase of github.com/Masterminds/sprig."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(key)).upper()


def _count(found: object) -> int | None:
    number = _number(found)
    return int(number) if number is not None and number == int(number) and 1 <= number <= MOST_CORES else None


def _number(found: object) -> float | None:
    """A number, also as a text, which the chart writes the same way; None if it is none."""
    try:
        number = float(found) if isinstance(found, (int, float, str)) and not isinstance(found, bool) else None
    except ValueError:
        return None
    return number if number is not None and isfinite(number) else None
