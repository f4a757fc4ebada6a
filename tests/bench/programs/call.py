"""Call `echo.py`: own address, address, port, timeout. Print what came of it, and its milliseconds.

A server that sees another port than the caller's own was called by a proxy.
"""

import json
import socket
import sys
import time

source, target, port, patience = sys.argv[1:]
began = time.perf_counter()
try:
    with socket.create_connection((target, int(port)), float(patience), (source, 0)) as call:
        call.sendall(b"hello")
        seen = call.recv(100).decode().split()
        own = call.getsockname()
        how = "bare" if seen == [own[0], str(own[1])] else "proxy" if seen else "closed"
except TimeoutError:
    how = "hangs"
except OSError as problem:
    how = type(problem).__name__
print(json.dumps([how, 1000 * (time.perf_counter() - began)]))
