"""Labelled lines for a person: coloured and wrapped on a terminal, plain elsewhere.

A library for this (rich) would be a package more on every machine, and takes longer to import than `exclave status` to
run.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

INDENT = 13
"""Columns of a label."""

_STYLES = {"state": "1", "problem": "1;31", "to do": "33", "waiting": "33"}
"""SGR parameters (ECMA-48): 1 bold, 31 red, 33 yellow; every other label is dim (2)."""


def print_lines(lines: Sequence[tuple[str, str]]) -> None:
    """Print each label with its text."""
    for label, text in lines:
        print(_for_terminal(label, text) if sys.stdout.isatty() else _head(label) + text)


def _head(label: str) -> str:
    return f"{label + ':':<{INDENT}}"


def _for_terminal(label: str, text: str) -> str:
    width = max(shutil.get_terminal_size().columns - INDENT, 20)
    wrapped = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    head = _head(label)
    if "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":  # https://no-color.org
        head = f"\x1b[{_STYLES.get(label, '2')}m{head}\x1b[0m"
    return head + ("\n" + " " * INDENT).join(wrapped)
