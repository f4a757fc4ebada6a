"""Clean-up that goes on although all around it is cancelled, for a limited time.

A shield without a limit would keep a program from ending when a process or a server does not answer.
"""

import trio


def shielded(seconds: float) -> trio.CancelScope:
    """A scope that no cancellation from outside reaches, and that is cancelled after so many seconds.

    `cancelled_caught` of the scope is True where the time was too short.
    """
    return trio.CancelScope(shield=True, deadline=trio.current_time() + seconds)
