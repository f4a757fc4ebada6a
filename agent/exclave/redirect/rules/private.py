"""Renders the table `inet exclave-private`, as text for `nft -f`: who may use the private link's addresses. Pure.

The other tables come and go with a ready proxy. This one stands as long as the link's addresses.
"""

from collections.abc import Iterable

from exclave.link.layout import INBOUND_PORT, NETWORK4, NETWORK6, PRIVATE_TABLE

_REMOVAL = f"table inet {PRIVATE_TABLE}\ndelete table inet {PRIVATE_TABLE}\n"

_NO_USER = 4294967295  # never the id of a user: (uid_t) -1


def render_private(uids: Iterable[int]) -> str:
    """The transaction that replaces the table. Only sockets of these users may accept connections on the link.

    Any user may bind our addresses: before an instance has started, after it has ended. A rule cannot match the owner
    of a listener when a connection arrives, but it can when the listener answers. Without the SYN-ACK no connection
    comes about, so nothing is ever sent to a foreign listener.
    """
    users = ", ".join(map(str, sorted(set(uids))))
    lines = [
        f"table inet {PRIVATE_TABLE} {{",
        "    chain foreign {",
        "        type filter hook prerouting priority -300; policy accept;",
        f'        iifname != "lo" ip daddr {NETWORK4} counter drop comment "for this machine only"',
        f'        iifname != "lo" ip6 daddr {NETWORK6} counter drop comment "for this machine only"',
        "    }",
        "",
        "    chain answers {",
        f'        meta skuid {{ {users} }} accept comment "the proxy and the agent"',
        f'        meta skuid != {_NO_USER} counter drop comment "another user\'s program listens here"',
        # A SYN cookie has no socket, and so no owner. Only the inbound port can be flooded by machines outside, and
        # without cookies half-open connections would stop it.
        f'        tcp sport {INBOUND_PORT} accept comment "a SYN cookie"',
        '        counter drop comment "no user\'s socket"',
        "    }",
        "",
        "    chain owners {",
        "        type filter hook output priority -300; policy accept;",
        *(
            f"        {word} saddr {network} {match} goto answers"
            for word, network in (("ip", NETWORK4), ("ip6", NETWORK6))
            for match in ("tcp flags & (syn | ack) == syn | ack", "meta l4proto udp")
        ),
        "    }",
        "}",
        "",
    ]
    return _REMOVAL + "\n".join(lines)


def render_private_removal() -> str:
    """The transaction that removes the table, which may be absent."""
    return _REMOVAL
