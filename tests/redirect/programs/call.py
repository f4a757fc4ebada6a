"""Connect once: address, port, timeout, source port. Print who answered, or the name of the exception."""

import json
import socket
import sys

try:
    place, own = (sys.argv[1], int(sys.argv[2])), ("", int(sys.argv[4]))
    with socket.create_connection(place, timeout=float(sys.argv[3]), source_address=own) as connection:
        print(connection.makefile().readline().strip())
except OSError as problem:
    print(json.dumps({"who": type(problem).__name__, "original": None}))
