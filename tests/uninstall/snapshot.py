"""Prints a snapshot of the machine on which it runs, as one JSON object of texts by subject: python snapshot.py LAYERS.

LAYERS is the folder of everything that was written to the machine's disks. Left out is what changes by itself:
counters, the number of tracked connections, learnt neighbours.
"""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

COMMANDS = {
    "nftables": "nft --stateless --handle list ruleset",
    "links": "ip -details link show",
    "addresses": "ip address show",
    "routes": "ip route show table all",
    "routes of IPv6": "ip -6 route show table all",
    "rules": "ip rule show",
    "rules of IPv6": "ip -6 rule show",
    "neighbours": "ip neighbour show nud permanent",
    "neighbours of IPv6": "ip -6 neighbour show nud permanent",
    "iptables-legacy": "iptables-legacy-save",
    "ip6tables-legacy": "ip6tables-legacy-save",
    "sockets that listen": "ss -Hlntu",
}
CHANGING = {"/proc/sys/net/netfilter/nf_conntrack_count"}


def run(command: str) -> str:
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


def tables() -> str:
    """Each table as JSON, in the order of the kernel."""
    listed = json.loads(run("nft --json list tables"))["nftables"]
    names = [(found["table"]["family"], found["table"]["name"]) for found in listed if "table" in found]
    found = [json.loads(run(f"nft --json --stateless list table {family} {name}")) for family, name in names]
    return "\n".join(json.dumps(without_counts(table), indent=1) for table in found)


def without_counts(found: object) -> object:
    """JSON of nft without the values of its counters."""
    if isinstance(found, list):
        return [without_counts(each) for each in found]
    if not isinstance(found, dict):
        return found
    counted = ("packets", "bytes") if "packets" in found else ("used",)
    return {name: without_counts(value) for name, value in found.items() if name not in counted}


def settings() -> Iterator[str]:
    for folder, _, names in sorted(os.walk("/proc/sys/net")):
        for path in (os.path.join(folder, name) for name in sorted(names)):
            if path in CHANGING or not os.stat(path).st_mode & stat.S_IRUSR:
                continue
            try:
                yield f"{path} {Path(path).read_text().strip()}"
            except OSError as problem:
                yield f"{path} {problem.strerror}"


def files(layers: str) -> Iterator[str]:
    device = os.stat(layers).st_dev
    for folder, folders, names in os.walk(layers):
        folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == device]
        if folder.startswith(f"{layers}/work"):
            continue
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            line = f"{path} {stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"
            if stat.S_ISREG(found.st_mode):
                line += f" {found.st_mtime_ns} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
            yield line


def processes() -> Iterator[str]:
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()):
        try:
            yield f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().decode().split(chr(0))}"
        except OSError:
            continue


def main() -> None:
    layers = sys.argv[1]
    found = {"processes": "\n".join(processes()), **{what: run(command) for what, command in COMMANDS.items()}}
    found["tables"], found["settings"] = tables(), "\n".join(settings())
    found["files"], found["mounts"] = "\n".join(sorted(files(layers))), Path("/proc/1/mountinfo").read_text()
    for what in ("iptables-legacy", "ip6tables-legacy"):
        found[what] = re.sub(r"^#.*\n|\[\d+:\d+\]", "", found[what], flags=re.MULTILINE)
    print(json.dumps(found))


main()
