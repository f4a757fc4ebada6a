"""Notifications to systemd. Source: sd_notify(3)."""

import os
import socket


def notify(state: str) -> bool:
    """Send one line such as "READY=1" to the socket in NOTIFY_SOCKET (@: abstract); False if it was not received."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Without NONBLOCK, a full queue would block the agent.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            return False
    return True
