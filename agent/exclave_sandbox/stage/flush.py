"""Flushes all rules and measures how long exclave's were away: `python -m exclave_sandbox.stage.flush`.

It prints the seconds between two messages of the kernel: that exclave's table is removed, and that it is there again.
"""

import contextlib
import os
import socket
import subprocess
import time

from exclave.link.layout import TABLE
from exclave.redirect.kernel.nft_events import TransactionReader

NETLINK_NETFILTER = 12
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES = 270, 1, 7  # linux/netlink.h and linux/netfilter/nfnetlink.h
PATIENCE = 10  # seconds for each message


def measure() -> float:
    """Flush, and return the seconds without rules. Raises TimeoutError if they do not come back."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.bind((0, 0))
        kernel.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        kernel.settimeout(PATIENCE)
        # On a busy machine messages would wait for this process, and the measured gap would be too short.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        reader, removed = TransactionReader(), 0.0
        with subprocess.Popen(["nft", "flush", "ruleset"]):
            while True:
                datagram, now = kernel.recv(1 << 16), time.monotonic()
                for transaction in reader.receive(datagram):
                    if TABLE in transaction.removed:
                        removed = now
                    elif TABLE in transaction.changed and removed:
                        return now - removed


if __name__ == "__main__":
    print(measure())
