"""Reads Debian's changelog. Format: Debian Policy, section 4.4."""

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """The newest entry: version with revision, and time in epoch seconds."""

    version: str
    time: int


def read_changelog(path: Path) -> Entry:
    """The newest entry of a changelog. Raises ValueError."""
    text = path.read_text(encoding="utf-8")
    head = re.match(r"exclave \(([^)]+)\) ", text)
    signature = re.search(r"^ -- .+ <.+>  (.+)$", text, re.MULTILINE)
    if head is None or signature is None:
        raise ValueError(f"{path} does not begin with an entry of exclave")
    return Entry(head[1], int(parsedate_to_datetime(signature[1]).timestamp()))
