"""Reads what identifies and describes this machine: the hash of its id, its boot, facts for a person."""

import contextlib
import hmac
import json
import platform
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import trio

from exclave import __version__
from exclave.errors import Fault, HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import remove, write_atomic
from exclave.milestones import Leaving, log_milestone

MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OS_RELEASE = Path("/etc/os-release")

BOOT = "boot.json"


def hash_machine(machine_id: str) -> str:
    """First 16 hex digits of HMAC-SHA256(machine-id, "exclave"), which shows clones. The id never leaves it."""
    return hmac.new(machine_id.encode(), b"exclave", "sha256").hexdigest()[:16]


async def read_machine_hash() -> str:
    """This machine's hash. Raises HostError if it has no id (machine-id(5))."""
    try:
        machine_id = (await trio.Path(MACHINE_ID).read_text(encoding="ascii")).strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise _no_machine_id(f"cannot be read: {problem}") from None
    if not re.fullmatch("[0-9a-f]{32}", machine_id):
        raise _no_machine_id("does not hold 32 hex digits")
    return hash_machine(machine_id)


def _no_machine_id(problem: str) -> HostError:
    return HostError(Fault.DISK, f"{MACHINE_ID} {problem}", "run systemd-machine-id-setup, then try again")


async def read_facts(zone: str | None) -> dict[str, str]:
    """Facts for an admin: host name, system, kernel, machine type, agent's version, the configured zone."""
    release: dict[str, str] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):  # some systems have no os-release
        release = parse_os_release(await trio.Path(OS_RELEASE).read_text(encoding="utf-8"))
    return choose_facts(release, platform.uname(), zone)


def choose_facts(release: Mapping[str, str], uname: platform.uname_result, zone: str | None) -> dict[str, str]:
    """The facts from os-release(5) and uname(2), each cut to 200 characters."""
    facts = {
        "hostname": uname.node,
        "os": release.get("PRETTY_NAME", ""),
        "kernel": uname.release,
        "machine": uname.machine,
        "agent": __version__,
        "zone": zone or "",
    }
    return {key: value[:200] for key, value in facts.items() if value}


def parse_os_release(text: str) -> dict[str, str]:
    """The assignments in os-release(5), without quotes."""
    found = re.findall(r"""^([A-Z_0-9]+)=(?:"([^"\n]*)"|'([^'\n]*)'|([^\s"']*))$""", text, re.MULTILINE)
    return {name: double or single or bare for name, double, single, bare in found}


async def read_boot_identity(runtime: Path) -> str:
    """`<boot id>.<nonce of this boot>`; made at first use, since clones may share a boot id. Raises HostError."""
    boot_id = (await trio.Path(BOOT_ID).read_text(encoding="ascii")).strip()
    path = runtime / BOOT
    try:
        found = parse_json(await trio.Path(path).read_text(encoding="utf-8"))
        if found["boot"] == boot_id:
            return f"{boot_id}.{found['nonce']}"
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged
    nonce = secrets.token_hex(8)
    write_atomic(path, (json.dumps({"boot": boot_id, "nonce": nonce}) + "\n").encode())
    return f"{boot_id}.{nonce}"


def forget_boot_identity(runtime: Path) -> None:
    """Remove the nonce: the next membership makes its own."""
    remove(runtime / BOOT)
    log_milestone(Leaving.BOOT)
