"""Open connections to places (`address/port`) without a pause, until stdin ends; then print which server answered."""

import collections
import json
import socket
import sys
import threading

who, stop = collections.Counter(), threading.Event()


def call(place):
    address, port = place.rsplit("/", 1)
    while not stop.is_set():
        try:
            with socket.create_connection((address, int(port)), timeout=5) as connection:
                who[json.loads(connection.makefile().readline())["who"]] += 1
        except (OSError, ValueError) as problem:
            who[type(problem).__name__] += 1


threads = [threading.Thread(target=call, args=(place,)) for place in sys.argv[1:]]
for thread in threads:
    thread.start()
print("up", flush=True)
sys.stdin.readline()
stop.set()
for thread in threads:
    thread.join()
print(json.dumps(who), flush=True)
