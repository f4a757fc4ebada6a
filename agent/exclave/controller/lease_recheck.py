"""Asking after members that seem to have fallen silent, by reading their Leases.

Rules: a watch can stall without a word, for minutes, and tell of nobody's heartbeat, so nobody dies of what a watch has
not said. Of whom the server does not tell, nothing is concluded. A server that has other worries is not pressed.
"""

from collections.abc import Iterable

from exclave.api.requests import LEASES, Object, get
from exclave.controller.leader.lead import Sender
from exclave.controller.policy.snapshot import Key
from exclave.errors import ApiRefusal, ClusterError

MOST_ASKED = 200
"""Leases read at once, when so many members seem to have fallen silent."""


async def recheck_leases(cluster: Sender, silent: Iterable[Key]) -> tuple[list[Object], set[Key]]:
    """The Leases of those who are silent, and of whom none could be read."""
    unread, found = set(silent), list[Object]()
    for key in sorted(unread)[:MOST_ASKED]:
        try:
            found.append(await cluster.send(get(LEASES, *key)))
        except ClusterError as problem:
            if not isinstance(problem, ApiRefusal) or problem.status != 404:
                break  # the next look asks again
        unread.discard(key)
    return found, unread
