"""The stand-in's sight of its destination controller: what linkerd2-proxy's connection to it shows from outside.

linkerd2-proxy keeps a connection to the controller, asked or not, and says in its metrics whether it stands; answers
that it has are used without a word to the controller. Rules: the controller is tried every `POLL_PAUSE` seconds; the
gauge and `LookupCache.is_away` say how that went.
"""

import dns.exception
import trio

from exclave_sandbox.standin.admin import Counts
from exclave_sandbox.standin.lookup import LookupCache, Resolver
from exclave_sandbox.standin.stream import BROKEN, connect

POLL_PAUSE = 0.5
PATIENCE = 1.0
"""Seconds."""

GAUGE = "control_destination_balancer_endpoints"


async def watch_controller(resolver: Resolver, lookups: LookupCache, counts: Counts) -> None:
    """Keep what is known of the controller true, for ever."""
    while True:
        is_there = await reaches(resolver)
        lookups.is_away = not is_there
        for state, connected in (("ready", is_there), ("pending", not is_there)):
            counts.set(GAUGE, (("endpoint_state", state), ("addr", resolver.server)), int(connected))
        await trio.sleep(POLL_PAUSE)


async def reaches(resolver: Resolver) -> bool:
    """Whether the controller accepts a connection."""
    try:
        with trio.fail_after(PATIENCE):
            async with await connect(await resolver.find()):
                return True
    except (*BROKEN, dns.exception.DNSException):
        return False
