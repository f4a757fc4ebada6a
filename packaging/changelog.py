"""Reads Debian's changelog. Format: Debian Policy, section 4.4."""

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """The newest entry: version with revision, changes, and date in epoch seconds."""

    version: str
    changes: tuple[str, ...]
    date: int


def read_changelog(path: Path) -> Entry:
    """The newest entry of a changelog. Raises ValueError."""
    text = path.read_text(encoding="utf-8")
    head = re.match(r"exclave \(([^)]+)\) .*\n", text)
    signature = re.search(r"^ -- .+ <.+>  (.+)$", text, re.MULTILINE)
    if head is None or signature is None:
        raise ValueError(f"{path} does not begin with an entry of exclave")
    changes = text[head.end() : signature.start()].split("\n  * ")[1:]
    date = parsedate_to_datetime(signature[1])
    return Entry(head[1], tuple(" ".join(change.split()) for change in changes), int(date.timestamp()))
