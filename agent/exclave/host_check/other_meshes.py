"""Finds rules of other meshes in listings of nftables and iptables. Pure.

Such rules redirect what our rules let pass, also our proxy's own connections. A chain that no hook leads to is
harmless.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exclave.kit.formats.nft_json import parse_items
from exclave.link.layout import TABLE

_MESHES = {"PROXY_INIT_": "Linkerd", "ISTIO_": "Istio", "istio-": "Istio", "CONSUL_": "Consul", "KUMA_MESH_": "Kuma"}
"""By the beginning of their chains' names. Sources: linkerd2-proxy-init, pkg/iptables; istio, tools/istio-iptables and
tools/istio-nftables; consul, sdk/iptables; kuma, pkg/transparentproxy."""

_CHAIN = re.compile("|".join(_MESHES))

_SAVED_JUMP = re.compile(r"^-A \S+ .*-[jg] (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class OtherMesh:
    """Rules of another mesh. `place` is the table that they are in, `is_hooked`: packets reach them."""

    mesh: str
    chain: str
    place: str
    removal: str  # a command that removes them
    is_hooked: bool


@dataclass(frozen=True)
class Chains:
    """The kernel's chains: whether our table exists, and the tables that hold chains of other meshes."""

    has_our_table: bool
    suspects: tuple[tuple[str, str], ...]  # family and name


def parse_chains(listing: bytes) -> Chains:
    """Parse `nft -j list chains`. Raises ValueError."""
    chains = [item["chain"] for item in parse_items(listing) if "chain" in item]
    suspects = {(each["family"], each["table"]): None for each in chains if _CHAIN.match(each["name"])}
    ours = any((each["family"], each["table"]) == ("inet", TABLE) for each in chains)
    return Chains(ours, tuple(suspects))


def find_in_table(listing: bytes) -> list[OtherMesh]:
    """The chains of other meshes in `nft -j list table FAMILY NAME`. Raises ValueError."""
    items = parse_items(listing)
    chains = [item["chain"] for item in items if "chain" in item]
    rules = [item["rule"] for item in items if "rule" in item]
    hooks = {each["name"] for each in chains if "hook" in each}
    targets = {target for rule in rules if rule["chain"] in hooks for target in _targets(rule)}
    found = []
    for chain in chains:
        name, family, table = chain["name"], chain["family"], chain["table"]
        if not _CHAIN.match(name):
            continue
        is_native = table.startswith("istio-")
        removal = f"nft delete table {family} {table}" if is_native else _removal(name, family == "ip6", "")
        found.append(OtherMesh(_mesh(name), name, f"{family} {table}", removal, name in targets))
    return found


def find_in_saved(saved: str, *, is_ipv6: bool) -> list[OtherMesh]:
    """The chains of other meshes in the output of `iptables-legacy-save`, or with `is_ipv6` `ip6tables-legacy-save`."""
    names = re.findall(r"^:(\S+) ", saved, re.MULTILINE)
    targets = {*_SAVED_JUMP.findall(saved)}
    place = f"{'ip6tables' if is_ipv6 else 'iptables'}-legacy"
    return [
        OtherMesh(_mesh(name), name, place, _removal(name, is_ipv6, "-legacy"), name in targets)
        for name in names
        if _CHAIN.match(name)
    ]


def _mesh(chain: str) -> str:
    return next(mesh for beginning, mesh in _MESHES.items() if chain.startswith(beginning))


def _removal(chain: str, is_ipv6: bool, kind: str) -> str:
    """The command that loads a table again without the lines of a mesh."""
    beginning = next(beginning for beginning in _MESHES if chain.startswith(beginning))
    program = "ip6tables" if is_ipv6 else "iptables"
    return f"{program}{kind}-save | grep -v {beginning} | {program}{kind}-restore"


def _targets(rule: Mapping[str, Any]) -> Iterable[str]:
    """The chains that a rule jumps or goes to."""
    for expression in rule.get("expr", ()):
        for word in ("jump", "goto"):
            if isinstance(expression, dict) and isinstance(expression.get(word), dict):
                yield str(expression[word].get("target"))
