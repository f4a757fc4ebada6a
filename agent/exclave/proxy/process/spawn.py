"""Making a proxy process, and holding one: ours or one that an earlier agent made.

Why util-linux and not a shim of ours: `unshare` and `setpriv` do exactly these steps, are on every Debian and Fedora,
and leave no Python in the process that becomes the proxy. The chain is `unshare` (own mounts), a shell that waits at a
gate, mounts the private resolv.conf and goes on as `setpriv` (own user, nothing else), which goes on as the proxy: one
pid all the way, and one session of its own, so no signal to the agent reaches it and nothing ends it with the agent.

Rules: the child waits at its gate until its record is on disk; an agent killed before that leaves no child, one killed
after it leaves a proxy with a record. Signals go through a pidfd, so they reach this process or none.
The private resolv.conf holds until something replaces the host's file; the proxy has read it long before then.
"""

import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from exclave.errors import Fault, HostError
from exclave.proxy.process.binary import SEARCH_PATH, ProxyUser, setpriv_command

RESOLV_CONF = Path("/etc/resolv.conf")

# Without -n, mount would leave its folder /run/mount on a host that has none.
# Mounts of the host come and go in the proxy's namespace too (slave); its own never show in the host's.
_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "slave", "--")
_GATE = 'read -r _ || exit 0; exec </dev/null; cd /; mount -n --bind "$0" /etc/resolv.conf && exec "$@"'

_RESET_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them, and a child would inherit that


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
        return [*_OWN_MOUNTS, "sh", "-c", _GATE, str(self.resolv_conf), *setpriv_command(self.user), str(self.binary)]


class ProxyProcess:
    """A process held by a pidfd. `close` lets go of it without ending it."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int | None:
        """Wait until it has ended; its exit status (negative: that signal), None if it was no child of ours."""
        await trio.lowlevel.wait_readable(self._pidfd)
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)  # noqa: ASYNC222  it has ended: this returns at once
        except ChildProcessError:
            return None
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pidfd)


class Gated:
    """A child that waits at its gate. Open the gate once it is on record."""

    def __init__(self, process: ProxyProcess, gate: int) -> None:
        self.process = process
        self._gate = gate

    def open_gate(self) -> None:
        """Let it become the proxy."""
        with suppress(BrokenPipeError):  # it ended already, which `wait` tells
            os.write(self._gate, b"\n")
        os.close(self._gate)

    async def give_up(self) -> None:
        """Send it away instead."""
        os.close(self._gate)
        await self.process.wait()
        self.process.close()


def launch(program: Program) -> Gated:
    """Make the child. Raises HostError if the host lacks what that needs."""
    if not RESOLV_CONF.exists():
        raise HostError(
            Fault.PROXY_UNUSABLE,
            f"{RESOLV_CONF} is missing, and the proxy's own cannot be mounted over it",
            f"make it, empty if need be: touch {RESOLV_CONF}",
        )
    behind, gate = os.pipe2(os.O_CLOEXEC)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawn(
            _find_unshare(),
            program.command,
            {**program.environment, "PATH": SEARCH_PATH},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, behind, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(program.output), append, 0o640),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=_RESET_SIGNALS,
        )
    except OSError as problem:
        os.close(gate)
        raise HostError(
            Fault.PROXY_UNUSABLE,
            f"the proxy's process cannot be made: {problem.strerror}",
            f"see whether {program.output.parent} is writable, and whether this machine has room for processes",
        ) from problem
    finally:
        os.close(behind)
    return Gated(ProxyProcess(pid, os.pidfd_open(pid)), gate)


def _find_unshare() -> str:
    found = shutil.which(_OWN_MOUNTS[0], path=SEARCH_PATH)
    if found is None:
        raise HostError(
            Fault.PROXY_UNUSABLE, "the program unshare is not installed", "install it: apt install util-linux"
        )
    return found
