"""Reads the Leases of members that seem to be silent once more, since a watch can stall for minutes without an error.

A member whose Lease cannot be read stays live. The first failure ends the round, so a server in trouble gets no more
requests.
"""

from collections.abc import Iterable

from exclave.api.requests import LEASES, Object, get
from exclave.controller.leader.lead import Sender
from exclave.controller.policy.snapshot import Key
from exclave.errors import ApiRefusal, ClusterError

MOST_ASKED = 200
"""Leases that are read in one round at most."""


async def recheck_leases(cluster: Sender, silent: Iterable[Key]) -> tuple[list[Object], set[Key]]:
    """Read the Leases of silent members. Returns those that exist, and the members whose Lease could not be read."""
    unread, found = set(silent), list[Object]()
    for key in sorted(unread)[:MOST_ASKED]:
        try:
            found.append(await cluster.send(get(LEASES, *key)))
        except ClusterError as problem:
            if not isinstance(problem, ApiRefusal) or problem.status != 404:
                break  # the next round reads the rest
        unread.discard(key)
    return found, unread
