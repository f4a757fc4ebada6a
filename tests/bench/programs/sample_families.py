"""Open three connections, again and again, until stdin ends: to one place, to another, to the first again.

Then print how often the two that are alike agreed and the one between did not, which no moment of a change in one
transaction can show; and the number of triples.
"""

import json
import socket
import sys
import threading

stop, seen = threading.Event(), []


def call(place):
    address, port = place.rsplit("/", 1)
    try:
        with socket.create_connection((address, int(port)), timeout=5) as connection:
            return json.loads(connection.makefile().readline())["who"]
    except OSError as problem:
        return type(problem).__name__


def sample():
    while not stop.is_set():
        seen.append([call(sys.argv[place]) for place in (1, 2, 1)])


thread = threading.Thread(target=sample)
thread.start()
print("up", flush=True)
sys.stdin.readline()
stop.set()
thread.join()
print(json.dumps([sum(first == again != other for first, other, again in seen), len(seen)]), flush=True)
