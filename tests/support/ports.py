"""Ports of loopback for programs that take a number, not a socket.

Rules: below those that the kernel gives to whoever asks for any (ip_local_port_range), so that no connection of another
test has it before the program does; by chance, so that tests in other processes take others; and none twice.
"""

import secrets
import socket

_RANGE = range(10_240, 32_768)
_given: set[int] = set()


def free_port() -> int:
    """A port of loopback that nobody has."""
    while True:
        port = secrets.choice(_RANGE)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
