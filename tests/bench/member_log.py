"""A program that logs the steps of each join: `python -m tests.bench.member_log URL CA-FILE TOKEN-FILE`.

It watches Members and ExternalWorkloads, and prints one line for each that is new and for each certificate: the time
(monotonic seconds of this machine, the same for all its programs), the name, and `member`, `workload` or the sha256 of
the CSR that was signed. `ready` comes first, once all earlier objects are read. It is a program of its own, because a
program that also joins machines would log times that its own work has delayed.
"""

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from exclave.api.member import view_member
from exclave.api.requests import EXTERNAL_WORKLOADS, MEMBERS, Resource
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.watch import Upserted
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server


class MemberLog:
    """The first time of each step by member, and the CSR that was signed last."""

    def __init__(self) -> None:
        self.made: dict[str, float] = {}
        self.registered: dict[str, float] = {}
        self.certified: dict[str, float] = {}
        self.signed_for: dict[str, tuple[str, float]] = {}
        self.changed = trio.Event()

    def take(self, line: str) -> None:
        """Read a line of the program."""
        when, name, what = line.split()
        if what == "member":
            self.made.setdefault(name, float(when))
        elif what == "workload":
            self.registered.setdefault(name, float(when))
        else:
            self.certified.setdefault(name, float(when))
            self.signed_for[name] = (what, float(when))
            changed, self.changed = self.changed, trio.Event()
            changed.set()

    def steps(self) -> tuple[list[float], list[float]]:
        """Seconds from Member to ExternalWorkload, and from there to the certificate, of members with all three."""
        whole = [name for name in self.certified if name in self.made and name in self.registered]
        return (
            [self.registered[name] - self.made[name] for name in whole],
            [self.certified[name] - self.registered[name] for name in whole],
        )


@asynccontextmanager
async def open_member_log(server: Server, folder: Path) -> AsyncIterator[MemberLog]:
    """Log while open, after all earlier objects are read."""
    (folder / "admin").write_text(server.admin_token)
    command = [
        sys.executable,
        "-m",
        "tests.bench.member_log",
        server.url,
        str(folder / "ca.pem"),
        str(folder / "admin"),
    ]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    noted, ready = MemberLog(), trio.Event()

    async def read() -> None:
        text = ""
        assert process.stdout is not None
        async for piece in process.stdout:
            *lines, text = (text + piece.decode()).split("\n")
            for line in lines:
                if line == "ready":
                    ready.set()
                else:
                    noted.take(line)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await ready.wait()
        yield noted
        nursery.cancel_scope.cancel()
    process.terminate()
    await process.wait()


async def follow(cluster: Cluster, resource: Resource, *, task_status: "trio.TaskStatus[None]") -> None:
    """Print the changes of one kind."""
    seen: dict[str, str] = {}

    def handle(found: dict[str, object], *, printed: bool) -> None:
        metadata: dict[str, str] = found["metadata"]  # type: ignore[assignment]
        name, now = metadata["name"], time.monotonic()
        certificate = view_member(found).certificate if resource is MEMBERS else None
        signed = certificate.csr_sha256 if certificate else ""
        if printed and name not in seen:
            print(now, name, "member" if resource is MEMBERS else "workload", flush=True)
        if printed and signed and seen.get(name) != signed:
            print(now, name, signed, flush=True)
        seen[name] = signed

    async with cluster.watch(resource, NAMESPACE) as events:
        async for event in events:
            if isinstance(event, Upserted):
                handle(event.object, printed=True)
            elif hasattr(event, "objects"):
                for found in event.objects:
                    handle(found, printed=False)
                task_status.started()


async def main() -> None:
    """Watch for ever."""
    url, ca, token = sys.argv[1], Path(sys.argv[2]).read_text(), Path(sys.argv[3]).read_text()
    async with open_cluster(Access((url,), ca), lambda: token) as cluster, trio.open_nursery() as nursery:
        for resource in (MEMBERS, EXTERNAL_WORKLOADS):
            await nursery.start(follow, cluster, resource)
        print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main)
