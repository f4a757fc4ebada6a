"""An SSH server, as far as its sockets show: it prints a port and waits. The argument names what it does."""

import os
import socket
import sys
import time


def listen() -> None:
    """Listen, as a server or for a port that its user forwards."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    time.sleep(600)


def serve_caller() -> socket.socket:
    """Serve one connection as descriptor 0, as systemd starts a server for it; the caller's end."""
    listener = socket.create_server(("127.0.0.1", 0))
    caller = socket.create_connection(listener.getsockname())
    session, _ = listener.accept()
    os.dup2(session.fileno(), 0)
    listener.close()
    session.close()
    return caller


what = sys.argv[1]
if what == "listen":
    listen()
elif what == "serve":
    caller = serve_caller()
    print(caller.getpeername()[1], flush=True)
    time.sleep(600)
elif what == "forward":  # in a process of its own, which the server starts for a caller
    if os.fork():
        os.wait()
    listen()
elif what == "serve-and-forward":
    caller = serve_caller()
    listen()
