"""The rules as text for `nft -f`: the table `inet exclave`, whole. Pure.

Rules: one transaction makes, replaces or removes everything, so no half-applied state is ever seen; existing
connections keep the instance they have, since NAT decides at a connection's first packet and conntrack remembers.
Exclusions are sets with intervals, so a connection costs the same with one or ten thousand of them. Syntax is what nft
1.0.6 reads: `;` or a newline before every `}`, numbers for priorities, since `dstnat` is no name in an output hook.

The first rule's comment is `<instance> <digest>`. The digest is of the text of all rules, so that a new version of
exclave that writes other rules for the same policy is told apart, too.

The chains: `foreign` drops, before NAT, what comes from outside for the private link. `inbound` hands connections to
this machine's mesh addresses to the instance's port 4143; `outbound` those of local programs to port 4140.
"""

import hashlib
from collections.abc import Iterable, Sequence

from exclave.redirect.layout import (
    INBOUND_PORT,
    NETWORK4,
    NETWORK6,
    OUTBOUND_PORT,
    TABLE,
    Family,
    instance_address,
)
from exclave.redirect.policy import FAMILIES, RedirectPolicy

_WORD = {4: "ip", 6: "ip6"}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}


def render(policy: RedirectPolicy) -> str:
    """The transaction that puts this policy in place of whatever table of ours there is."""
    return "\n".join([*_removal(), *_table(policy, ruleset_digest(policy)), ""])


def ruleset_digest(policy: RedirectPolicy) -> str:
    """16 hex digits that name the rules of this policy."""
    return hashlib.sha256("\n".join(_table(policy, "")).encode()).hexdigest()[:16]


def render_removal() -> str:
    """The transaction that removes our table, there or not."""
    return "\n".join([*_removal(), ""])


def _removal() -> list[str]:
    # Naming the table first makes it exist, so that deleting it cannot fail.
    return [f"table inet {TABLE}", f"delete table inet {TABLE}"]


def _table(policy: RedirectPolicy, digest: str) -> list[str]:
    blocks = [_foreign(policy, digest)]
    if policy.inbound:
        blocks += [_set("captured_ports", "inet_service", map(str, policy.captured_ports())), _inbound(policy)]
    if policy.outbound and policy.networks != ():
        blocks += [*_outbound_sets(policy), _outbound(policy)]
    lines = [f"table inet {TABLE} {{"]
    for block in blocks:
        lines += [*_indent(block), ""]
    return [*lines[:-1], "}"]


def _outbound_sets(policy: RedirectPolicy) -> list[list[str]]:
    sets = [_set("passed_ports", "inet_service", map(str, policy.passed_ports()))]
    for family in FAMILIES:
        passed = [str(network) for network in policy.passed_networks() if network.version == family]
        sets.append(_set(f"passed_networks{family}", _TYPE[family], passed))
    for family in policy.families:
        captured = _of_family(policy.networks or (), family)
        if captured:
            sets.append(_set(f"captured_networks{family}", _TYPE[family], captured))
    return sets


def _set(name: str, kind: str, elements: Iterable[str]) -> list[str]:
    return [
        f"set {name} {{",
        f"    type {kind}",
        "    flags interval",
        "    auto-merge",
        f"    elements = {{ {', '.join(elements)} }}",
        "}",
    ]


def _foreign(policy: RedirectPolicy, digest: str) -> list[str]:
    # The first rule carries the digest, since nft 1.0.6 does not list a table's comment as JSON.
    return [
        "chain foreign {",
        "    type filter hook prerouting priority -300; policy accept;",
        f'    iifname != "lo" ip daddr {NETWORK4} counter drop comment "{policy.instance} {digest}"',
        f'    iifname != "lo" ip6 daddr {NETWORK6} counter drop',
        "}",
    ]


def _inbound(policy: RedirectPolicy) -> list[str]:
    rules = []
    for family in FAMILIES:
        own = _of_family(policy.addresses, family)
        if own:
            word = _WORD[family]
            target = _target(instance_address(policy.instance, family), INBOUND_PORT)
            rules.append(
                f"{word} daddr {{ {', '.join(own)} }} tcp dport @captured_ports counter dnat {word} to {target}"
            )
    return ["chain inbound {", "    type nat hook prerouting priority -100; policy accept;", *_indent(rules), "}"]


def _outbound(policy: RedirectPolicy) -> list[str]:
    users = sorted({policy.proxy_uid, *policy.exempt_uids})
    rules = [f"meta skuid {{ {', '.join(map(str, users))} }} accept", 'oifname "lo" accept']
    rules += [
        f"{'ip6' if ':' in server.address else 'ip'} daddr {server.address} tcp dport {server.port} accept"
        for server in policy.servers
    ]
    rules.append("tcp dport @passed_ports accept")
    for family in FAMILIES:
        rules.append(f"{_WORD[family]} daddr @passed_networks{family} accept")
    for family in policy.families:
        rules += _captured(policy, family)
    return ["chain outbound {", "    type nat hook output priority -100; policy accept;", *_indent(rules), "}"]


def _captured(policy: RedirectPolicy, family: Family) -> list[str]:
    word = _WORD[family]
    target = _target(instance_address(policy.instance, family), OUTBOUND_PORT)
    if policy.networks is None:
        version = "ipv4" if family == 4 else "ipv6"
        return [f"meta nfproto {version} meta l4proto tcp counter dnat {word} to {target}"]
    if _of_family(policy.networks, family):
        return [f"{word} daddr @captured_networks{family} meta l4proto tcp counter dnat {word} to {target}"]
    return []


def _of_family(addresses: Sequence[str], family: Family) -> list[str]:
    """Addresses or networks of one family."""
    return [address for address in addresses if (":" in address) == (family == 6)]


def _target(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]
