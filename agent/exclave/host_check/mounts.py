"""Finds NFS servers that this machine has mounted, and which would not serve it through the proxy.

By default an NFS server serves only callers with a source port below 1024, as root alone may have it. The proxy
connects from another port. Sources: exports(5), `secure`; nfs(5), `resvport`; proc_pid_mountinfo(5).
"""

import json
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import trio

from exclave.config import RedirectConfig
from exclave.kit.formats.ranges import as_span

MOUNTS = Path("/proc/self/mountinfo")

NFS_PORT = 2049

_TYPES = ("nfs", "nfs4")


@dataclass(frozen=True)
class NfsMount:
    """A mount: what is mounted, and the server's address and port."""

    source: str
    address: str
    port: int = NFS_PORT


def parse_nfs_mounts(mounts: str) -> tuple[NfsMount, ...]:
    """The mounts that need a privileged source port, one for each server. Lines of another form are skipped."""
    found: dict[tuple[str, int], NfsMount] = {}
    for line in mounts.splitlines():
        kind, _, rest = line.partition(" - ")[2].partition(" ")
        source, _, listed = rest.partition(" ")
        options = dict(option.partition("=")[::2] for option in listed.split(","))
        if kind not in _TYPES or "noresvport" in options:
            continue
        try:
            address, port = str(ip_address(options.get("addr", ""))), int(options.get("port") or NFS_PORT)
        except ValueError:
            continue
        found.setdefault((address, port), NfsMount(source, address, port or NFS_PORT))
    return tuple(found.values())


def mount_warnings(mounts: tuple[NfsMount, ...], config: RedirectConfig) -> list[str]:
    """A warning for each server that the configuration does not exclude, with the line to write."""
    lacking = [mount for mount in mounts if not _is_excluded(mount, config)]
    networks = list(dict.fromkeys((*config.exclude_outbound_networks, *(_network(each.address) for each in lacking))))
    return [
        f"{mount.source} is mounted by NFS, whose server {mount.address} may serve privileged source ports only: "
        "through the proxy it would not answer. Unless it is outside of the cluster's networks, write before you join, "
        f"in [redirect] of /etc/exclave/config.toml: exclude_outbound_networks = {json.dumps(networks)}"
        for mount in lacking
    ]


def _is_excluded(mount: NfsMount, config: RedirectConfig) -> bool:
    address = ip_address(mount.address)
    if address.is_loopback or address.is_link_local:
        return True
    spans = map(as_span, config.exclude_outbound_ports)
    return any(first <= mount.port <= last for first, last in spans) or any(
        address.version == network.version and address in network
        for network in map(ip_network, config.exclude_outbound_networks)
    )


def _network(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


async def find_mount_warnings(config: RedirectConfig) -> list[str]:
    """The warnings for what is mounted now."""
    try:
        mounts = await trio.Path(MOUNTS).read_text(encoding="utf-8", errors="replace")
    except OSError:  # a host without /proc
        return []
    return mount_warnings(parse_nfs_mounts(mounts), config)
