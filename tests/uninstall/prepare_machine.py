"""Prepares a machine as an administrator would: own disks, so that every write shows, and an own network.

The folders of exclave are there from the start, as a package or a unit makes them.
"""

import sys
from pathlib import Path

import exclave
from exclave_sandbox.stage.namespaces import Machine

LAYERS = "/mnt"
"""The folder of everything that was written to its disks."""

COVERED = ("/etc", "/var", "/root", "/mnt", "/run", "/tmp")
"""Where this machine has disks of its own."""

FILES = Path(__file__).with_name("machine")


def covered(*folders: Path) -> list[Path]:
    """Those of these folders, and of the folders of the programs that run here, which the new disks would cover."""
    programs = (Path(sys.prefix), Path(sys.base_prefix), Path(exclave.__file__).parents[1], Path(__file__).parents[1])
    found = {folder.resolve() for folder in (*folders, *programs)}
    found = {folder for folder in found if any(folder.is_relative_to(disk) for disk in COVERED)}
    return sorted(folder for folder in found if not found.intersection(folder.parents))


async def prepare_machine(machine: Machine, scratch: Path) -> None:
    """Set up disks, name servers, network and rules."""

    async def run(*command: str, stdin: str = "") -> None:
        content = (FILES / stdin).read_bytes() if stdin else b""
        done = await machine.run(*command, stdin=content)
        assert done.status == 0, (command, done.errors)

    await run("sh", "-s", *map(str, covered(scratch)), stdin="disks.sh")
    await run("sh", "-c", "rm -f /etc/resolv.conf && cat >/etc/resolv.conf", stdin="resolv.conf")
    await run("sh", "-s", stdin="network.sh")
    await run("nft", "-f", "-", stdin="rules.nft")
    for kind in ("nft", "legacy"):
        await run(f"iptables-{kind}-restore", "--noflush", stdin="docker.iptables")
    await run("ip6tables-legacy", "-t", "filter", "-N", "OURS")
