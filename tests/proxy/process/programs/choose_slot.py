"""Chooses a slot in a network namespace of its own, and prints it with its families, or the error, as JSON.

python choose_slot.py JSON: addresses for the loopback link, [address, port] pairs to listen on, slots in use. With
`shortage` as second argument, the families that a launcher finds are printed first, then all descriptors are used up.
"""

import json
import resource
import socket
import subprocess
import sys
from pathlib import Path

from exclave.errors import HostError
from exclave.proxy.process.launcher import ProxyLauncher, choose_slot, find_families

addresses, listened, used = json.loads(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for address in addresses:
    options = ["nodad"] if ":" in address else []  # as on our link: usable at once
    subprocess.run(["ip", "address", "add", address, "dev", "lo", *options], check=True)
listeners = [socket.create_server((host, port)) for host, port in listened]
if sys.argv[2:] == ["shortage"]:
    launcher = ProxyLauncher(None, None, Path("/nowhere"), None, None)  # type: ignore[arg-type]
    before = launcher.find_families("a")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    print(json.dumps([before, launcher.find_families("a")]))
try:
    slot = choose_slot(used)
    print(json.dumps([slot, find_families(slot)]))
except HostError as problem:
    print(json.dumps([problem.fault.word, problem.message, problem.hint]))
