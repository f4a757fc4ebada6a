"""`rules.json`: how the kernel listed our table right after it was made. The next agent compares it, and makes none.

Blocking: one small file in the runtime folder, written whole. It holds the fingerprint of the listed table, the digest
of the transaction that made it, and the boot. A record of another boot or of other rules, or a damaged one, is ignored:
the table is then made again, which no connection notices.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from exclave.errors import HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.host.procfs import read_boot_id
from exclave.redirect.kernel.observe import Observed

log = logging.getLogger(__name__)

FILE = "rules.json"


@dataclass(frozen=True)
class _Applied:
    rules: str
    fingerprint: str
    boot_id: str


class AppliedRecord:
    """The file in one runtime folder."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / FILE

    def find_fingerprint(self, rules: str) -> str | None:
        """The fingerprint recorded for the table that this transaction makes; None if there is none."""
        try:
            tree = parse_json(self._path.read_text(encoding="utf-8"))
            found = _Applied(str(tree["rules"]), str(tree["fingerprint"]), str(tree["boot_id"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found.fingerprint if found == _record(rules, found.fingerprint) else None

    def store(self, rules: str, observed: Observed) -> None:
        """Record how the table that this transaction made is listed. A disk that refuses is logged only."""
        try:
            text = json.dumps(asdict(_record(rules, observed.fingerprint)), indent=2)
            write_atomic(self._path, f"{text}\n".encode())
        except HostError as problem:
            log.warning("redirect: the next agent will make its rules again: %s", problem)

    def remove(self) -> None:
        """Remove the file. Raises HostError."""
        remove(self._path)


def _record(rules: str, fingerprint: str) -> _Applied:
    return _Applied(hashlib.sha256(rules.encode()).hexdigest(), fingerprint, read_boot_id())


def remove_applied(runtime: Path) -> None:
    """Remove the file without an agent. Raises HostError."""
    AppliedRecord(runtime).remove()
