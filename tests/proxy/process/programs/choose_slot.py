"""Chooses a slot in a network namespace of its own, and prints it with its families, or the error, as JSON.

python choose_slot.py JSON: addresses for the loopback link, [address, port] pairs to listen on, slots in use
"""

import json
import socket
import subprocess
import sys

from exclave.errors import HostError
from exclave.proxy.process.launcher import choose_slot, find_families

addresses, listened, used = json.loads(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for address in addresses:
    options = ["nodad"] if ":" in address else []  # as on our link: usable at once
    subprocess.run(["ip", "address", "add", address, "dev", "lo", *options], check=True)
listeners = [socket.create_server((host, port)) for host, port in listened]
try:
    slot = choose_slot(used)
    print(json.dumps([slot, find_families(slot)]))
except HostError as problem:
    print(json.dumps([problem.fault.word, problem.message, problem.hint]))
