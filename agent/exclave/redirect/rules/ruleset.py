"""Renders the table `inet exclave` as text for `nft -f`. Pure.

One transaction makes, replaces or removes everything, so the kernel never has half of a ruleset. Open connections stay
with their instance, since NAT decides at the first packet. Ports and networks are in interval sets, so a connection
costs the same with one or ten thousand of them.
The chain `foreign` drops, before NAT, packets from outside to the private link. `inbound` redirects connections to the
mesh addresses to port 4143, `outbound` those of local programs to port 4140, `forwarded` those of containers.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from exclave.kit.formats.host_port import join_host_port
from exclave.kit.formats.ranges import Span, render_span
from exclave.link.layout import INBOUND_PORT, NETWORK4, NETWORK6, OUTBOUND_PORT, TABLE, Family, instance_address
from exclave.redirect.rules.confirm_timer import DECLARATION, with_timer
from exclave.redirect.rules.policy import FAMILIES, NEVER_CAPTURED, RedirectPolicy, collapsed
from exclave.redirect.rules.trial import trial_chain

PRIORITY = -110
"""Before the usual -100. A port that Docker publishes and the group serves must reach the proxy first, which then calls
it like any local program; else a pod would speak TLS to the container. The chain for containers comes next."""

_WORD = {4: "ip", 6: "ip6"}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}

NEVER_PORTS, NEVER_NETWORKS = "ssh_ports", "never_captured"


def render(policy: RedirectPolicy) -> str:
    """The transaction that replaces our table by the rules of this policy."""
    return "\n".join([*_removal(), *_table(policy, ruleset_digest(policy)), ""])


@lru_cache(maxsize=16)  # it is compared at every reading of the table
def ruleset_digest(policy: RedirectPolicy) -> str:
    """16 hex digits that name the rules of this policy, by their text: another exclave may write other rules."""
    return hashlib.sha256("\n".join(_table(policy, "")).encode()).hexdigest()[:16]


def render_removal() -> str:
    """The transaction that removes our table, which may be absent."""
    return "\n".join([*_removal(), ""])


def _removal() -> list[str]:
    # Naming the table first makes it exist, so that deleting it cannot fail.
    return [f"table inet {TABLE}", f"delete table inet {TABLE}"]


def _table(policy: RedirectPolicy, digest: str) -> list[str]:
    has_outbound = policy.outbound and policy.networks != ()
    blocks = [_foreign(policy, digest)]
    if policy.inbound or has_outbound:
        blocks.append(_ports(NEVER_PORTS, policy.ssh_server_ports()))
    if policy.inbound:
        blocks += [*_inbound_sets(policy), _inbound(policy)]
    if has_outbound:
        blocks += [*_outbound_sets(policy), _outbound(policy)]
        if policy.capture_interfaces:
            blocks.append(_forwarded(policy))
    if policy.armed_until is not None:
        blocks = [blocks[0], list(DECLARATION), *map(with_timer, blocks[1:])]
    if policy.trial is not None:  # without the timer: a trial may come before the confirmation
        blocks.append(trial_chain(policy.trial, policy.families))
    lines = [f"table inet {TABLE} {{"]
    for block in blocks:
        lines += [*_indent(block), ""]
    return [*lines[:-1], "}"]


# Sets.


def _inbound_sets(policy: RedirectPolicy) -> Iterator[list[str]]:
    if policy.passed_inbound_ports():
        yield _ports("passed_inbound_ports", policy.passed_inbound_ports())
    for family in FAMILIES:
        yield from _networks(f"passed_sources{family}", policy.exempt_sources, family)
    yield _ports("captured_ports", policy.captured_ports())


def _outbound_sets(policy: RedirectPolicy) -> Iterator[list[str]]:
    if policy.passed_outbound_ports():
        yield _ports("passed_ports", policy.passed_outbound_ports())
    for family in FAMILIES:
        yield from _networks(f"{NEVER_NETWORKS}{family}", NEVER_CAPTURED, family)
        yield from _networks(f"passed_networks{family}", policy.exempt_networks, family)
    for family in policy.families:
        yield from _networks(f"captured_networks{family}", policy.networks or (), family)


def _ports(name: str, spans: Sequence[Span]) -> list[str]:
    return _set(name, "inet_service", map(render_span, spans))


def _networks(name: str, networks: tuple[str, ...], family: Family) -> Iterator[list[str]]:
    """A set of a family's networks; none without networks, since nft refuses an empty element list."""
    found = collapsed(networks, family)
    if found:
        yield _set(name, _TYPE[family], found)


def _set(name: str, kind: str, elements: Iterable[str]) -> list[str]:
    # nft 1.0.6 needs `;` or a newline before every `}`.
    return [
        f"set {name} {{",
        f"    type {kind}",
        "    flags interval",
        f"    elements = {{ {', '.join(elements)} }}",
        "}",
    ]


# Chains.


def _foreign(policy: RedirectPolicy, digest: str) -> list[str]:
    # The first rule has instance and digest as its comment: nft 1.0.6 does not list a table's comment as JSON.
    # The comments of the other rules give their reason, which `exclave explain` prints.
    return [
        "chain foreign {",
        "    type filter hook prerouting priority -300; policy accept;",
        f'    iifname != "lo" ip daddr {NETWORK4} counter drop comment "{policy.instance} {digest}"',
        f'    iifname != "lo" ip6 daddr {NETWORK6} counter drop',
        "}",
    ]


def _inbound(policy: RedirectPolicy) -> list[str]:
    rules = [*_first_rules()]
    if policy.exempt_inbound_interfaces:
        names = _quoted(policy.exempt_inbound_interfaces)
        rules.append(_pass(f"iifname {{ {names} }}", "exclude_inbound_interfaces in config.toml"))
    for family in FAMILIES:
        if collapsed(policy.exempt_sources, family):
            match = f"{_WORD[family]} saddr @passed_sources{family}"
            rules.append(_pass(match, "exclude_inbound_networks in config.toml"))
    if policy.passed_inbound_ports():
        rules.append(_pass("tcp dport @passed_inbound_ports", "exclude_inbound_ports in config.toml"))
    for family in FAMILIES:
        own = _of_family(policy.addresses, family)
        if own:
            word = _WORD[family]
            target = join_host_port(instance_address(policy.instance, family), INBOUND_PORT)
            match = f"{word} daddr {{ {', '.join(own)} }} tcp dport @captured_ports"
            rules.append(f"{match} counter dnat {word} to {target} comment \"the group's ports and the proxy's own\"")
    return _nat_chain("inbound", "prerouting", PRIORITY, rules)


def _outbound(policy: RedirectPolicy) -> list[str]:
    rules = [
        *_first_rules(),
        _pass(f"meta skuid {policy.proxy_uid}", "the proxy's own connections"),
        _pass('oifname "lo"', "loopback, and this machine's own addresses"),
    ]
    for key, numbers, why in (
        ("skuid", policy.exempt_uids, "exclude_users"),
        ("skgid", policy.exempt_gids, "exclude_groups"),
    ):
        if numbers:
            listed = ", ".join(map(str, sorted(set(numbers))))
            rules.append(_pass(f"meta {key} {{ {listed} }}", f"{why} in config.toml"))
    if policy.exempt_outbound_interfaces:
        names = _quoted(policy.exempt_outbound_interfaces)
        rules.append(_pass(f"oifname {{ {names} }}", "exclude_outbound_interfaces in config.toml"))
    return _nat_chain("outbound", "output", PRIORITY, [*rules, *_by_destination(policy)])


def _forwarded(policy: RedirectPolicy) -> list[str]:
    names = _quoted(policy.capture_interfaces)
    rules = [
        *_first_rules(),
        _pass(f"iifname != {{ {names} }}", "it comes by no interface of capture_interfaces in config.toml"),
        _pass("fib daddr type != unicast", "it is for this machine itself"),
        _pass(f"fib daddr oifname {{ {names} }}", "from one container to another"),
    ]
    if policy.exempt_outbound_interfaces:
        names = _quoted(policy.exempt_outbound_interfaces)
        rules.append(_pass(f"fib daddr oifname {{ {names} }}", "exclude_outbound_interfaces in config.toml"))
    return _nat_chain("forwarded", "prerouting", PRIORITY + 1, [*rules, *_by_destination(policy)])


def _first_rules() -> list[str]:
    return [
        _pass("meta l4proto != tcp", "only TCP is captured"),
        # conntrack has no entry of a connection that is older than the rules; capturing its next packet would break it.
        _pass("tcp flags & (fin | syn | rst | ack) != syn", "only new connections are captured"),
        _pass(f"tcp dport @{NEVER_PORTS}", "SSH is never captured"),
    ]


def _by_destination(policy: RedirectPolicy) -> list[str]:
    """Exceptions by destination, then what is captured."""
    rules = []
    for server in policy.servers:
        word = "ip6" if ":" in server.address else "ip"
        rules.append(_pass(f"{word} daddr {server.address} tcp dport {server.port}", "the API server"))
    for family in FAMILIES:
        peers = _of_family(policy.ssh_peers, family)
        if peers:
            match = f"{_WORD[family]} daddr {{ {', '.join(peers)} }}"
            rules.append(_pass(match, "the other end of the SSH session that the agent was started in"))
    for family in FAMILIES:
        match = f"{_WORD[family]} daddr @{NEVER_NETWORKS}{family}"
        rules.append(_pass(match, "loopback, link-local, metadata and multicast are never captured"))
    if policy.passed_outbound_ports():
        rules.append(_pass("tcp dport @passed_ports", "exclude_outbound_ports in config.toml"))
    for family in FAMILIES:
        if collapsed(policy.exempt_networks, family):
            match = f"{_WORD[family]} daddr @passed_networks{family}"
            rules.append(_pass(match, "exclude_outbound_networks in config.toml"))
    for family in policy.families:
        rules += _captured(policy, family)
    return rules


def _captured(policy: RedirectPolicy, family: Family) -> list[str]:
    word = _WORD[family]
    target = join_host_port(instance_address(policy.instance, family), OUTBOUND_PORT)
    if policy.networks is None:
        version = "ipv4" if family == 4 else "ipv6"
        match = f"meta nfproto {version} meta l4proto tcp"
        return [f'{match} counter dnat {word} to {target} comment "the group captures everything"']
    if collapsed(policy.networks, family):
        match = f"{word} daddr @captured_networks{family} meta l4proto tcp"
        return [f'{match} counter dnat {word} to {target} comment "the cluster\'s networks"']
    return []


def _nat_chain(name: str, hook: str, priority: int, rules: Iterable[str]) -> list[str]:
    # The priority is a number: nft 1.0.6 does not accept the name dstnat in an output hook.
    return [f"chain {name} {{", f"    type nat hook {hook} priority {priority}; policy accept;", *_indent(rules), "}"]


def _pass(match: str, why: str) -> str:
    return f'{match} accept comment "{why}"'


def _of_family(addresses: Sequence[str], family: Family) -> list[str]:
    return [address for address in addresses if (":" in address) == (family == 6)]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(set(names)))


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]
