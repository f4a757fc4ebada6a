"""What keeps connections alive while rules are changed, withdrawn or opened: text for `nft -f`. Pure.

The kernel translates a connection's packets only while some nat chain is hooked in, and remembers connections only
while some rule asks for that, for each family. The last of either to go takes every translated connection with it:
each gets a reset at its next packet. So every ruleset of ours has the chain `kept`: a nat chain, whose one rule asks
for connections of both families and matches none, since packets of no connection never come to a nat chain. Whatever
replaces whatever, the chain is there before and after, and no connection notices.

The holding ruleset is what stands between the rules and nothing: it captures nothing new, still keeps strangers from
the private link, and keeps what was translated alive until the proxy has ended. Measured, 40 connections, both
families and directions: deleting the table resets 40, emptying it first resets 40, holding resets none; a dnat that
never matches would keep its own family only, and a nat chain without a rule keeps nothing.
"""

from exclave.link.layout import NETWORK4, NETWORK6, TABLE
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import render, render_removal

HOLDING = "holding"
"""The mark of the holding ruleset, where others have instance and digest."""

KEEPALIVE_CHAIN = """\
    chain kept {
        type nat hook prerouting priority -90; policy accept;
        ct state invalid accept
    }
"""


def render_ruleset(policy: RedirectPolicy) -> str:
    """The transaction that puts a policy in place, in a table that keeps what was translated."""
    return f"{render(policy)}table inet {TABLE} {{\n{KEEPALIVE_CHAIN}}}\n"


def render_drain() -> str:
    """The transaction that replaces whatever table of ours there is by the holding ruleset."""
    return f"""\
{render_removal()}table inet {TABLE} {{
    chain foreign {{
        type filter hook prerouting priority -300; policy accept;
        iifname != "lo" ip daddr {NETWORK4} counter drop comment "{HOLDING}"
        iifname != "lo" ip6 daddr {NETWORK6} counter drop
    }}

{KEEPALIVE_CHAIN}}}
"""
