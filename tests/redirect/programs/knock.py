"""Call places (`address/port`) over TCP and UDP until standard input ends; then print how many calls were answered."""

import contextlib
import json
import select
import socket
import sys
import time

PAUSE = 0.002  # seconds between two rounds
OPEN = 200  # calls that may be under way at once

places = [(address, int(port)) for address, _, port in (word.partition("/") for word in sys.argv[1:])]
answered = rounds = 0
calls: list[socket.socket] = []
print("up", flush=True)
while sys.stdin not in select.select([sys.stdin], [], [], PAUSE)[0]:
    for place in places:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            call = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
            with contextlib.suppress(OSError):
                call.connect(place)
                call.send(b"anybody?")
            calls.append(call)
    rounds += 1
    for call in select.select(calls, [], [], 0)[0]:
        with contextlib.suppress(OSError):
            answered += bool(call.recv(100))
        calls.remove(call)
        call.close()
    while len(calls) > OPEN:
        calls.pop(0).close()
time.sleep(0.1)
print(json.dumps([rounds, answered]), flush=True)
