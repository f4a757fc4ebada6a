"""Keeps translated connections alive while rules change or go: text for `nft -f`. Pure.

The kernel translates packets only while a nat chain exists, and tracks connections only while a rule needs that, for
each family. When the last one goes, each translated connection is reset at its next packet. So every ruleset of ours
has the chain `kept`: a nat chain whose one rule needs tracking for both families and matches nothing, since packets
without a connection never reach a nat chain. It exists before and after each replacement.
The drain ruleset comes between the rules and their removal: it captures nothing new, still protects the private link,
and keeps connections alive until the proxy has ended. Measured with 40 connections, both families and directions:
deleting or emptying the table resets 40, the drain ruleset none. A dnat that never matches keeps its own family only.
"""

from exclave.link.layout import NETWORK4, NETWORK6, TABLE
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import render, render_removal

DRAIN_MARK = "holding"
"""The comment of its first rule, where other rulesets have instance and digest."""

KEEPALIVE_CHAIN = """\
    chain kept {
        type nat hook prerouting priority -90; policy accept;
        ct state invalid accept
    }
"""


def render_ruleset(policy: RedirectPolicy) -> str:
    """The transaction that replaces our table by the rules of this policy and the chain `kept`."""
    return f"{render(policy)}table inet {TABLE} {{\n{KEEPALIVE_CHAIN}}}\n"


def render_drain() -> str:
    """The transaction that replaces our table by the drain ruleset."""
    return f"""\
{render_removal()}table inet {TABLE} {{
    chain foreign {{
        type filter hook prerouting priority -300; policy accept;
        iifname != "lo" ip daddr {NETWORK4} counter drop comment "{DRAIN_MARK}"
        iifname != "lo" ip6 daddr {NETWORK6} counter drop
    }}

{KEEPALIVE_CHAIN}}}
"""
