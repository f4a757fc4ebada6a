"""Starts a proxy process behind a gate (see kit/host/gated).

The chain is `unshare` (own mounts), a shell that waits at the gate and mounts the private resolv.conf, `setpriv` (own
user, nothing else), then the proxy. Each replaces the one before, so the pid stays the same.
util-linux and not a program of ours: both tools are on every Debian and Fedora, and no Python is left in the process.
The private resolv.conf lasts until something replaces the host's file; the proxy has read it long before.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exclave.errors import Fault, HostError
from exclave.kit.host.gated import GATE, GatedProcess, start_gated
from exclave.proxy.process.binary import SEARCH_PATH, ProxyUser, setpriv_command

RESOLV_CONF = Path("/etc/resolv.conf")

# Without -n, mount would leave its folder /run/mount on a host that has none.
# Mounts of the host come and go in the proxy's namespace too (slave); its own never show in the host's.
_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "slave", "--")
_SHELL = f'{GATE}; exec </dev/null; cd /; mount -n --bind "$0" /etc/resolv.conf && exec "$@"'


@dataclass(frozen=True)
class Program:
    """What to run: as whom, with which environment and names, and where its output goes."""

    binary: Path
    user: ProxyUser
    environment: Mapping[str, str] = field(repr=False)
    resolv_conf: Path
    output: Path

    @property
    def command(self) -> list[str]:
        """The argument list of the whole chain."""
        return [*_OWN_MOUNTS, "sh", "-c", _SHELL, str(self.resolv_conf), *setpriv_command(self.user), str(self.binary)]


def launch(program: Program) -> GatedProcess:
    """Start the child. Raises HostError if the host lacks what it needs."""
    if not RESOLV_CONF.exists():
        raise HostError(
            Fault.PROXY_UNUSABLE,
            f"{RESOLV_CONF} is missing, and the proxy's own cannot be mounted over it",
            f"make it, empty if need be: touch {RESOLV_CONF}",
        )
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        return start_gated(
            _find_unshare(),
            program.command,
            {**program.environment, "PATH": SEARCH_PATH},
            [(os.POSIX_SPAWN_OPEN, 1, str(program.output), append, 0o640), (os.POSIX_SPAWN_DUP2, 1, 2)],
        )
    except OSError as problem:
        raise HostError(
            Fault.PROXY_UNUSABLE,
            f"the proxy's process cannot be made: {problem.strerror}",
            f"see whether {program.output.parent} is writable, and whether this machine has room for processes",
        ) from problem


def _find_unshare() -> str:
    found = shutil.which(_OWN_MOUNTS[0], path=SEARCH_PATH)
    if found is None:
        raise HostError(
            Fault.PROXY_UNUSABLE, "the program unshare is not installed", "install it: apt install util-linux"
        )
    return found
