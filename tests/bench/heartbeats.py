"""A program that sends the heartbeats of a fleet: `python -m tests.bench.heartbeats URL CA-FILE TOKEN-FILE`.

Names of members come on standard input, one a line; each member's Lease is renewed as often as the controller has
published, the first time at once, and all of them by one client.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import trio

from exclave.api.member import heartbeat_request
from exclave.api.names import SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, get
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.errors import ClusterError
from exclave_sandbox.stage.mesh import GROUP, NAMESPACE
from peers.conftest import Server

LOOK = 10.0
"""Seconds between two reads of the published interval."""


class Heartbeats:
    """The program, started."""

    def __init__(self, server: Server, folder: Path) -> None:
        (folder / "admin").write_text(server.admin_token)
        command = [sys.executable, "-m", "tests.bench.heartbeats", server.url, folder / "ca.pem", folder / "admin"]
        self._started = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def add(self, member: str) -> None:
        """Send the heartbeats of one more member."""
        assert self._started.stdin is not None
        self._started.stdin.write(f"{member}\n")
        self._started.stdin.flush()

    def end(self) -> None:
        """End all heartbeats."""
        self._started.terminate()
        self._started.wait()


async def send_heartbeats(cluster: Cluster, members: dict[str, float]) -> None:
    """Send heartbeats when they are due, for ever; `members` has the next time of each (trio time)."""
    interval, looked = 10.0, float("-inf")
    while True:
        now = trio.current_time()
        if now - looked > LOOK:
            interval, looked = await wanted(cluster, interval), now
        name = min(members, key=lambda one: members[one], default=None)
        if name is None or members[name] > now:
            await trio.sleep(0.02 if name is None else min(0.5, members[name] - now))
            continue
        members[name] = max(now, members[name] + interval)
        try:
            await cluster.send(heartbeat_request(NAMESPACE, name, "boot.bench", time.time()))
        except ClusterError as problem:
            print(f"no heartbeat of {name}: {problem}", file=sys.stderr)


async def wanted(cluster: Cluster, before: float) -> float:
    """The interval that is published."""
    try:
        found = await cluster.send(get(CONFIG_MAPS, NAMESPACE, settings_name(GROUP)))
    except ClusterError:
        return before
    return float(json.loads(found["data"][SETTINGS_KEY])["heartbeat"])


async def main() -> None:
    """Read names, and send their heartbeats."""
    url, ca, token = sys.argv[1], Path(sys.argv[2]).read_text(), Path(sys.argv[3]).read_text()
    members: dict[str, float] = {}

    async def read() -> None:
        text = ""
        async with trio.lowlevel.FdStream(0) as names:
            async for piece in names:
                *lines, text = (text + piece.decode()).split("\n")
                members.update(dict.fromkeys(lines, trio.current_time()))

    async with open_cluster(Access((url,), ca), lambda: token) as cluster, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(send_heartbeats, cluster, members)


if __name__ == "__main__":
    trio.run(main)
