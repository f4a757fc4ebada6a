"""Holds the lock file that its argument names, as a running agent does."""

import sys
from pathlib import Path

from exclave.kit.host.files import hold_lock

with hold_lock(Path(sys.argv[1]), "x", "y"):
    print("up", flush=True)
    sys.stdin.read()
