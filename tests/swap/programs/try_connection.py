"""Makes one trial connection in a network namespace of its own, and prints `proven` or the error.

python try_connection.py PID: the process to connect by way of; 0 is this one, "hidden" one of another user, which this
one may not inspect
"""

import ctypes
import os
import struct
import subprocess
import sys

import trio

from exclave.errors import HostError
from exclave.swap.evidence import try_connection


def start_hidden() -> int:
    """Start a process of another user, then give up the right to inspect it; its pid."""
    started = subprocess.Popen(["sleep", "5"], user=65534)
    header, none = struct.pack("II", 0x20080522, 0), bytes(24)  # capset(2), version 3: no capability
    if ctypes.CDLL(None, use_errno=True).capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    return started.pid


for words in ("link set lo up", "address add 169.254.77.4/32 dev lo"):
    subprocess.run(["ip", *words.split()], check=True)
try:
    pid = start_hidden() if sys.argv[1] == "hidden" else int(sys.argv[1]) or os.getpid()
    trio.run(try_connection, "169.254.77.4", pid, ("169.254.77.2", 4140), strict_exception_groups=True)
    print("proven")
except HostError as problem:
    print(problem.message)
