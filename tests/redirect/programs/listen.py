"""Listen at places (`address/port`); answer each caller with a name and the original destination, then echo lines."""

import json
import socket
import struct
import sys
import threading
from contextlib import suppress


def original_destination(connection):
    try:
        if connection.family == socket.AF_INET:
            raw = connection.getsockopt(socket.SOL_IP, 80, 16)
            return [socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack("!H", raw[2:4])[0]]
        raw = connection.getsockopt(socket.IPPROTO_IPV6, 80, 28)
        return [socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack("!H", raw[2:4])[0]]
    except OSError:
        return None  # it was not redirected


def serve(name, connection):
    original = original_destination(connection)
    if original == list(connection.getsockname()[:2]):
        original = None
    with suppress(OSError), connection, connection.makefile("rwb") as lines:
        lines.write(json.dumps({"who": name, "original": original}).encode() + b"\n")
        lines.flush()
        for line in lines:
            lines.write(line)
            lines.flush()


def listen(server):
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(sys.argv[1], connection), daemon=True).start()


for place in sys.argv[2:]:
    address, port = place.rsplit("/", 1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, int(port)), family=family)
    threading.Thread(target=listen, args=(server,), daemon=True).start()
print("up", flush=True)
sys.stdin.read()
