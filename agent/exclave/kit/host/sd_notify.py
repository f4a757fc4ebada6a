"""Notifications to systemd, if it listens.

Source: sd_notify(3): datagrams to the socket named by NOTIFY_SOCKET; a leading @ means the abstract namespace.
"""

import os
import socket


def notify(state: str) -> bool:
    """Send one state line such as "READY=1"; False if it was not received."""
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
