"""`rules.json`: what our table was right after it was made, so that the next agent compares it and makes none.

Blocking: one small file in the runtime folder, written whole. What it holds is the fingerprint of the table as the
kernel listed it, the digest of the transaction that made it, and the boot. One of another boot, of other rules or that
is damaged says nothing: the table is then made again, which no connection notices.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from exclave.errors import HostError
from exclave.kit.host.atomic import remove, write_atomic
from exclave.kit.host.procfs import read_boot_id
from exclave.redirect.kernel.observe import Observed

log = logging.getLogger(__name__)

FILE = "rules.json"


@dataclass(frozen=True)
class _Made:
    rules: str
    fingerprint: str
    boot_id: str


class Made:
    """The file in one runtime folder."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / FILE

    def fingerprint_of(self, rules: str) -> str | None:
        """What the table that this transaction makes was listed as when it was made; None if nobody knows."""
        try:
            tree = json.loads(self._path.read_text(encoding="utf-8"))
            made = _Made(str(tree["rules"]), str(tree["fingerprint"]), str(tree["boot_id"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return made.fingerprint if made == self._expected(rules, made.fingerprint) else None

    def note(self, rules: str, observed: Observed) -> None:
        """Note how the table is listed that this transaction has made. A disk that refuses costs a later agent work."""
        try:
            text = json.dumps(asdict(self._expected(rules, observed.fingerprint)), indent=2)
            write_atomic(self._path, f"{text}\n".encode())
        except HostError as problem:
            log.warning("redirect: the next agent will make its rules anew: %s", problem)

    def forget(self) -> None:
        """The table is no longer what it was made as."""
        remove(self._path)

    @staticmethod
    def _expected(rules: str, fingerprint: str) -> _Made:
        return _Made(hashlib.sha256(rules.encode()).hexdigest(), fingerprint, read_boot_id())


def forget_rules(runtime: Path) -> None:
    """Remove the file, from cold. Raises HostError."""
    Made(runtime).forget()
