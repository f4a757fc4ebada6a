"""Runs `exclave` and kills a process at a milestone: python kill_at_milestone.py ARMED, then exclave's arguments.

ARMED is a file with a victim and a milestone's line. When that line is logged, the victim is killed with SIGKILL before
anything else happens: `agent` is this process, `proxy` every proxy of this machine at once, `exec` the same after their
exec. Then the file is removed, and ARMED.at has the time.
"""

import logging
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "agent"))

from exclave.cli.main import main  # noqa: E402


def proxies() -> list[int]:
    """Every process of this machine with the environment of a proxy, also before its exec."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"LINKERD2_PROXY_" in environment:
            found.append(int(folder.name))
    return found


def is_proxy(pid: int) -> bool:
    try:
        return b"setpriv" not in (words := Path(f"/proc/{pid}/cmdline").read_bytes()) and not words.startswith(
            (b"sh\0", b"unshare")
        )
    except OSError:
        return True


class Killer(logging.Handler):
    def __init__(self, armed: Path) -> None:
        super().__init__()
        self._armed = armed

    def emit(self, record: logging.LogRecord) -> None:
        try:
            victim, _, line = self._armed.read_text().partition(" ")
        except FileNotFoundError:
            return
        if record.getMessage() != line:
            return
        self._armed.unlink()
        victims = [os.getpid()] if victim == "agent" else proxies()
        while victim == "exec" and not all(map(is_proxy, victims)):
            time.sleep(0.001)  # an exec cannot be waited for
        self._armed.with_suffix(".at").write_text(str(time.monotonic()))
        for pid in victims:
            with suppress(ProcessLookupError):  # the death of one victim may end the next
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    milestones = logging.getLogger("exclave.milestones")
    milestones.setLevel(logging.INFO)
    milestones.addHandler(Killer(Path(sys.argv[1])))
    sys.exit(main(sys.argv[2:]))
