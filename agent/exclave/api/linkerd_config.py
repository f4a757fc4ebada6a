"""Reads ConfigMap `linkerd-config`: what Linkerd's chart was installed with, as YAML under the key `values`. Pure.

Source of the keys: linkerd2 charts/linkerd-control-plane/values.yaml.
"""

import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import yaml

from exclave.api import fields
from exclave.api.malformed import mapping_in
from exclave.api.requests import Object
from exclave.api.settings import MOST_WORKERS, LinkerdSettings, Workers, is_parameter

CONFIG = "ConfigMap linkerd-config"
WHERE = f"{CONFIG}: values."


def read_linkerd(config_map: Object, namespace: str) -> LinkerdSettings:
    """Read `linkerd-config`. Raises ValueError naming the missing value."""
    try:
        values = yaml.safe_load((config_map.get("data") or {})["values"])
    except (KeyError, yaml.YAMLError):
        raise ValueError(f"{CONFIG}: key `values` with YAML was expected") from None
    if not isinstance(values, dict):
        raise ValueError(f"{CONFIG}: key `values` with YAML was expected")
    proxy = fields.optional(values, "proxy", dict, WHERE)
    image = fields.optional(proxy, "image", dict, f"{WHERE}proxy.")
    networks = [network for part in _text(values, "clusterNetworks").split(",") if (network := part.strip())]
    if values.get("disableIPv6"):
        networks = [network for network in networks if ":" not in network]
    return LinkerdSettings(
        namespace=namespace,
        trust_domain=_text(values, "identityTrustDomain" if values.get("identityTrustDomain") else "clusterDomain"),
        cluster_domain=_text(values, "clusterDomain"),
        proxy_version=_scalar(image, "version") or _scalar(values, "linkerdVersion"),
        inbound_policy=_scalar(proxy, "defaultInboundPolicy") or "all-unauthenticated",
        opaque_ports=_scalar(proxy, "opaquePorts"),
        workers=_workers(proxy),
        parameters=dict(sorted(_parameters(proxy))),
        cluster_networks=fields.networks({"clusterNetworks": networks}, "clusterNetworks", WHERE),
    )


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
            for protocol, parameters in _items(protocols):
                for key, value in _items(parameters):
                    name = "_".join(_snake_case(part) for part in (direction, scope, protocol, key))
                    if value is not None and is_parameter(name, str(value)):
                        yield name, str(value)


def _items(found: object) -> list[tuple[str, object]]:
    return [(str(key), value) for key, value in found.items()] if isinstance(found, dict) else []


def _snake_case(key: str) -> str:
    """`keepAliveInterval` as `KEEP_ALIVE_INTERVAL`; source: snakecase of github.com/Masterminds/sprig."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(key)).upper()


def _count(found: object) -> int | None:
    number = _number(found)
    return int(number) if number is not None and number == int(number) and 1 <= number <= MOST_WORKERS else None


def _number(found: object) -> float | None:
    """A number, also as a text, which the chart writes the same way; None if it is none."""
    try:
        number = float(found) if isinstance(found, (int, float, str)) and not isinstance(found, bool) else None
    except ValueError:
        return None
    return number if number is not None and isfinite(number) else None


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{CONFIG}: values.{key} was expected")
    return value


def _scalar(values: Mapping[str, Any], key: str) -> str:
    """A text; "" if there is none. A number is made a text: YAML reads one port or a version so. A list is refused."""
    value = values.get(key) or ""
    if type(value) not in (str, int, float):
        raise ValueError(f"{CONFIG}: {key}: a text was expected, found {type(value).__name__}")
    return str(value)
