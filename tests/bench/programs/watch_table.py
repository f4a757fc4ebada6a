"""Print the seconds that exclave's table was away, each time, from the kernel's messages."""

import contextlib
import json
import os
import socket
import time

from exclave.link.layout import TABLE
from exclave.redirect.kernel.nft_events import TransactionReader
from exclave_sandbox.stage.flush import NETLINK_ADD_MEMBERSHIP, NETLINK_NETFILTER, NFNLGRP_NFTABLES, SOL_NETLINK

kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
kernel.bind((0, 0))
kernel.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
with contextlib.suppress(OSError):  # else messages wait for this process on a busy machine, and the gap looks shorter
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
print("up", flush=True)
removed, reader = None, TransactionReader()
while True:
    datagram, now = kernel.recv(1 << 16), time.monotonic()
    for transaction in reader.receive(datagram):
        if TABLE in transaction.removed:
            removed = now
        elif TABLE in transaction.changed and removed is not None:
            print(json.dumps(now - removed), flush=True)
            removed = None
