"""`unconfirmed.json`: that rules are to be confirmed, and whether they have been in the kernel yet.

Blocking: one small file, written whole. Rules: it stands in the state folder, since a reboot confirms nothing; while it
is there nobody has confirmed. That rules went in is noted before they do, so that no crash gives them a second time.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import remove, write_atomic

FILE = "unconfirmed.json"


@dataclass(frozen=True)
class Unconfirmed:
    """Rules may stand for `seconds` without being confirmed; `begun`: that time has begun, or is over."""

    seconds: float
    begun: bool = False


def store_unconfirmed(state: Path, record: Unconfirmed) -> None:
    """Write the record. Raises HostError."""
    write_atomic(state / FILE, (json.dumps(asdict(record)) + "\n").encode())


def load_unconfirmed(state: Path) -> Unconfirmed | None:
    """Read the record; None if there is none. One that is damaged counts as rules whose time is over."""
    try:
        text = (state / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return Unconfirmed(0.0, begun=True)
    try:
        tree = parse_json(text)
        return Unconfirmed(float(tree["seconds"]), bool(tree["begun"]))
    except (ValueError, KeyError, OverflowError, TypeError):
        return Unconfirmed(0.0, begun=True)


def forget_unconfirmed(state: Path) -> bool:
    """Remove the record: whatever rules there are, they are confirmed; whether there was one. Raises HostError."""
    there = (state / FILE).exists()
    remove(state / FILE)
    return there
