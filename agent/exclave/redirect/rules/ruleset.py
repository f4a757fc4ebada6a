"""Renders the table `inet exclave` as text for `nft -f`. Pure.

Each text is one transaction, so the kernel never has half of a ruleset. Open connections stay with their instance.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from exclave.kit.formats.host_port import join_host_port
from exclave.kit.formats.ranges import Span, render_span
from exclave.link.layout import (
    FAMILIES,
    INBOUND_PORT,
    NETWORK4,
    NETWORK6,
    OUTBOUND_PORT,
    TABLE,
    Family,
    Instance,
    instance_address,
    trial_address,
)
from exclave.redirect.rules.confirm_timer import CLOSED, DECLARATION, with_timer
from exclave.redirect.rules.policy import NEVER_CAPTURED, RedirectPolicy, collapsed

PRIORITY = -110
"""Before the usual -100: the proxy must get a port of the group that Docker publishes before Docker's DNAT does.
Else a pod would speak TLS to the container. The chain for containers is the next one."""

TRIAL, TRIAL_PRIORITY = "trial", PRIORITY - 1  # name and priority of the trial chain, just before the outbound one
CLOSED_PRIORITY = PRIORITY - 5  # before all NAT, also that of others
DRAIN_MARK = "holding"  # comment of the drain ruleset's first rule; other rulesets have instance and digest there

KEEPALIVE_CHAIN = """\
    chain kept {
        type nat hook prerouting priority -90; policy accept;
        ct state invalid accept
    }
"""
"""Protects translated connections while rules change or are removed. Every ruleset of ours has it.

The kernel translates packets only while a nat chain exists, and tracks connections of a family only while a rule needs
that; after the last one, each translated connection is reset. This rule needs tracking for both families and matches
nothing. Measured with 40 connections: without the table or its rules 40 are reset, with this chain none. A dnat that
never matches protects its own family only."""

_WORD = {4: "ip", 6: "ip6"}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}

NEVER_PORTS, NEVER_NETWORKS = "ssh_ports", "never_captured"

# The first line creates a missing table, so that deleting it cannot fail.
_REMOVAL = f"table inet {TABLE}\ndelete table inet {TABLE}\n"


def render_ruleset(policy: RedirectPolicy) -> str:
    """The transaction that replaces our table by the rules of this policy."""
    table = "\n".join(_table(policy, ruleset_digest(policy)))
    return f"{_REMOVAL}{table}\ntable inet {TABLE} {{\n{KEEPALIVE_CHAIN}}}\n"


def render_drain() -> str:
    """The transaction that replaces our table by the drain ruleset: no new captures, open connections continue."""
    foreign = "\n".join(_indent(_foreign(DRAIN_MARK)))
    return f"{_REMOVAL}table inet {TABLE} {{\n{foreign}\n\n{KEEPALIVE_CHAIN}}}\n"


def render_removal() -> str:
    """The transaction that removes our table, which may be absent."""
    return _REMOVAL


def render_for_check() -> str:
    """The transaction of a table with every kind of rule, for `nft --check` on a host that may lack what they need.

    It is dormant and has a name of its own, so that the kernel hooks nothing and our table is not part of it.
    """
    policy = RedirectPolicy(
        "a",
        ("192.0.2.1",),
        (80,),
        None,
        65534,
        exempt_uids=(1,),
        closes=True,
        capture_interfaces=("lo",),
        armed_until=0.0,
    )
    blocks = "\n".join(_table(policy, "")[1:-1])
    return f"table inet {TABLE}-check {{\n    flags dormant\n{blocks}\n{KEEPALIVE_CHAIN}}}\n"


@lru_cache(maxsize=16)  # compared at every reading of the table
def ruleset_digest(policy: RedirectPolicy) -> str:
    """16 hex digits that identify the rules of this policy by their text: another version may render other rules."""
    return hashlib.sha256("\n".join(_table(policy, "")).encode()).hexdigest()[:16]


def _table(policy: RedirectPolicy, digest: str) -> list[str]:
    has_outbound = policy.outbound and policy.networks != ()
    # The first rule's comment names the rules: nft 1.0.6 does not list a table's comment as JSON.
    blocks = [_foreign(f"{policy.instance} {digest}")]
    if policy.inbound or has_outbound:
        blocks += _ports(NEVER_PORTS, policy.ssh_server_ports())
    if policy.inbound:
        blocks += [*_inbound_sets(policy), _inbound(policy)]
        blocks += [_closed(policy)] if policy.closes else []
    if has_outbound:
        blocks += [*_outbound_sets(policy), _outbound(policy)]
        if policy.capture_interfaces:
            blocks.append(_forwarded(policy))
    if policy.armed_until is not None:
        blocks = [blocks[0], list(DECLARATION), *map(with_timer, blocks[1:])]
    if has_outbound and not policy.refuses:
        blocks.append(_refusals(policy.instance, policy.families))
    if policy.trial is not None:  # without the timer: a trial may precede the confirmation
        blocks.append(_trial(policy.trial, policy.families))
    lines = [f"table inet {TABLE} {{"]
    for block in blocks:
        lines += [*_indent(block), ""]
    return [*lines[:-1], "}"]


# Sets, each with at least one element: nft refuses an empty list. Interval sets cost the same with 1 or 10,000.


def _inbound_sets(policy: RedirectPolicy) -> Iterator[list[str]]:
    yield from _ports("passed_inbound_ports", policy.passed_inbound_ports())
    for family in FAMILIES:
        yield from _networks(f"passed_sources{family}", policy.exempt_sources, family)
    yield from _ports("captured_ports", policy.captured_ports())


def _outbound_sets(policy: RedirectPolicy) -> Iterator[list[str]]:
    yield from _ports("passed_ports", policy.passed_outbound_ports())
    for family in FAMILIES:
        yield from _networks(f"{NEVER_NETWORKS}{family}", NEVER_CAPTURED, family)
        yield from _networks(f"passed_networks{family}", policy.exempt_networks, family)
    for family in policy.families:
        yield from _networks(f"captured_networks{family}", policy.networks or (), family)


def _ports(name: str, spans: Sequence[Span]) -> Iterator[list[str]]:
    return _set(name, "inet_service", [render_span(span) for span in spans])


def _networks(name: str, networks: tuple[str, ...], family: Family) -> Iterator[list[str]]:
    return _set(name, _TYPE[family], collapsed(networks, family))


def _set(name: str, kind: str, elements: Sequence[str]) -> Iterator[list[str]]:
    if elements:
        # nft 1.0.6 needs `;` or a newline before every `}`.
        listed = f"    elements = {{ {', '.join(elements)} }}"
        yield [f"set {name} {{", f"    type {kind}", "    flags interval", listed, "}"]


# Chains. The comment of a rule is its reason, which `exclave explain` prints.


def _foreign(mark: str) -> list[str]:
    """Drops packets from outside to the private link, before NAT. Its first rule has `mark` as its comment."""
    return [
        "chain foreign {",
        "    type filter hook prerouting priority -300; policy accept;",
        f'    iifname != "lo" ip daddr {NETWORK4} counter drop comment "{mark}"',
        f'    iifname != "lo" ip6 daddr {NETWORK6} counter drop',
        "}",
    ]


def _inbound(policy: RedirectPolicy) -> list[str]:
    rules = _inbound_exceptions(policy)
    for family in FAMILIES:
        own = _of_family(policy.addresses, family)
        if own:
            match = f"{_WORD[family]} daddr {{ {', '.join(own)} }} tcp dport @captured_ports"
            target = _dnat(policy.instance, family, INBOUND_PORT)
            rules.append(f"{match} counter {target} comment \"the group's ports and the proxy's own\"")
    return _nat_chain("inbound", "prerouting", PRIORITY, rules)


def _closed(policy: RedirectPolicy) -> list[str]:
    """Drops new connections to the group's ports at other addresses of this machine, such as a second interface's.

    A pod's proxy takes the connections to each of its addresses. Ours serves one address family, and the connections of
    the member's address, by whose routes replies leave.
    """
    rules = [_pass('iifname "lo"', "this machine's own programs"), *_inbound_exceptions(policy)]
    for family in FAMILIES:
        own = _of_family(policy.addresses, family)
        if own:
            rules.append(_pass(f"{_WORD[family]} daddr {{ {', '.join(own)} }}", "the proxy takes it"))
    why = "no policy holds at this address, which is none of captured_addresses in config.toml"
    rules.append(f'fib daddr type local tcp dport @captured_ports counter drop comment "{why}"')
    head = f"type filter hook prerouting priority {CLOSED_PRIORITY}; policy accept;"
    return [f"chain {CLOSED} {{", *_indent([head, *rules]), "}"]


def _inbound_exceptions(policy: RedirectPolicy) -> list[str]:
    return [
        *_first_rules(),
        *_pass_interfaces("iifname", policy.exempt_inbound_interfaces, "exclude_inbound_interfaces"),
        *_pass_networks("saddr @passed_sources", policy.exempt_sources, "exclude_inbound_networks in config.toml"),
        *_pass_ports("passed_inbound_ports", policy.passed_inbound_ports(), "exclude_inbound_ports"),
    ]


def _outbound(policy: RedirectPolicy) -> list[str]:
    rules = [
        *_first_rules(),
        _pass(f"meta skuid {policy.proxy_uid}", "the proxy's own connections"),
        _pass('oifname "lo"', "loopback, and this machine's own addresses"),
        *_pass_accounts("skuid", policy.exempt_uids, "exclude_users"),
        *_pass_accounts("skgid", policy.exempt_gids, "exclude_groups"),
        *_pass_interfaces("oifname", policy.exempt_outbound_interfaces, "exclude_outbound_interfaces"),
    ]
    return _nat_chain("outbound", "output", PRIORITY, [*rules, *_by_destination(policy)])


def _forwarded(policy: RedirectPolicy) -> list[str]:
    names = _quoted(policy.capture_interfaces)
    rules = [
        *_first_rules(),
        _pass(f"iifname != {{ {names} }}", "it comes by no interface of capture_interfaces in config.toml"),
        _pass("fib daddr type != unicast", "it is for this machine itself"),
        _pass(f"fib daddr oifname {{ {names} }}", "from one container to another"),
        *_pass_interfaces("fib daddr oifname", policy.exempt_outbound_interfaces, "exclude_outbound_interfaces"),
    ]
    return _nat_chain("forwarded", "prerouting", PRIORITY + 1, [*rules, *_by_destination(policy)])


def _refusals(instance: Instance, families: tuple[Family, ...]) -> list[str]:
    """Drops the kernel's refusals of connections to an instance whose process has just ended.

    The caller's SYN is sent again after 1 s, then 2 s, and meets the process that was started meanwhile. A refusal
    acknowledges a SYN, so its own sequence number is 0 (RFC 9293, 3.5.2); that of an open connection's reset is not. It
    is dropped before its source becomes the original destination. Refusals to pods are not dropped: their proxies try
    again every 0.1 s, but wait 1 s for an answer.
    """
    why = "callers try again while the proxy's process is started"
    rules = [
        f"{_WORD[family]} saddr {instance_address(instance, family)} tcp sport {OUTBOUND_PORT} "
        f'tcp flags & (rst | ack) == (rst | ack) tcp sequence 0 counter drop comment "{why}"'
        for family in families
    ]
    head = "type filter hook postrouting priority 0; policy accept;"
    return ["chain refusals {", *_indent([head, *rules]), "}"]


def _trial(instance: Instance, families: tuple[Family, ...]) -> list[str]:
    """Sends root's connections to the trial address to an instance without traffic.

    The proxy's own connections must reach the listener. It is a separate chain, so a trial changes nothing else.
    """
    rules = [
        f"meta skuid 0 {_WORD[family]} daddr {trial_address(family)} meta l4proto tcp "
        f'{_dnat(instance, family, OUTBOUND_PORT)} comment "a swap tries this instance before it has traffic"'
        for family in families
    ]
    return _nat_chain(TRIAL, "output", TRIAL_PRIORITY, rules)


def _first_rules() -> list[str]:
    return [
        _pass("meta l4proto != tcp", "only TCP is captured"),
        # conntrack does not have a connection that is older than the rules; capturing its next packet would break it.
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
    never = "loopback, link-local, metadata and multicast are never captured"
    rules += _pass_networks(f"daddr @{NEVER_NETWORKS}", NEVER_CAPTURED, never)
    rules += _pass_ports("passed_ports", policy.passed_outbound_ports(), "exclude_outbound_ports")
    rules += _pass_networks(
        "daddr @passed_networks", policy.exempt_networks, "exclude_outbound_networks in config.toml"
    )
    for family in policy.families:
        rules += _captured(policy, family)
    return rules


def _captured(policy: RedirectPolicy, family: Family) -> list[str]:
    if policy.networks is None:
        match, why = f"meta nfproto ipv{family}", "the group captures everything"
    elif collapsed(policy.networks, family):
        match, why = f"{_WORD[family]} daddr @captured_networks{family}", "the cluster's networks"
    else:
        return []
    target = _dnat(policy.instance, family, OUTBOUND_PORT)
    return [f'{match} meta l4proto tcp counter {target} comment "{why}"']


def _nat_chain(name: str, hook: str, priority: int, rules: Iterable[str]) -> list[str]:
    # The priority is a number: nft 1.0.6 does not accept the name dstnat in an output hook.
    return [f"chain {name} {{", f"    type nat hook {hook} priority {priority}; policy accept;", *_indent(rules), "}"]


def _dnat(instance: Instance, family: Family, port: int) -> str:
    return f"dnat {_WORD[family]} to {join_host_port(instance_address(instance, family), port)}"


def _pass(match: str, why: str) -> str:
    return f'{match} accept comment "{why}"'


def _pass_interfaces(key: str, names: Iterable[str], option: str) -> list[str]:
    return [_pass(f"{key} {{ {_quoted(names)} }}", f"{option} in config.toml")] if names else []


def _pass_accounts(key: str, numbers: Iterable[int], option: str) -> list[str]:
    listed = ", ".join(map(str, sorted(set(numbers))))
    return [_pass(f"meta {key} {{ {listed} }}", f"{option} in config.toml")] if numbers else []


def _pass_ports(name: str, ports: Sequence[Span], option: str) -> list[str]:
    return [_pass(f"tcp dport @{name}", f"{option} in config.toml")] if ports else []


def _pass_networks(match: str, networks: tuple[str, ...], why: str) -> list[str]:
    """A rule for each family's set of networks; the set's name ends with the family."""
    return [_pass(f"{_WORD[family]} {match}{family}", why) for family in FAMILIES if collapsed(networks, family)]


def _of_family(addresses: Sequence[str], family: Family) -> list[str]:
    return [address for address in addresses if (":" in address) == (family == 6)]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(set(names)))


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]
