"""What commands print. Only this module writes to standard output and standard error, so no text passes unchecked.

Each text is made visible, unless code that lays out lines has done so. JSON escapes by itself.
"""

import json
import os
import sys
from typing import Any, TextIO

from exclave.kit.formats.visible_text import VisibleText, paragraph, visible


def print_out(*lines: str) -> None:
    """Print results to standard output, each text on its own line."""
    _write(sys.stdout, lines)


def print_err(*lines: str) -> None:
    """Print notes and failures to standard error, each text on its own line."""
    _write(sys.stderr, lines)


def prompt(text: str) -> None:
    """Print to standard error without a line break."""
    _write(sys.stderr, [text], end="")


def failure_lines(message: str, hint: str) -> list[VisibleText]:
    """A failure for a person: its message and the remedy. More lines of either are indented."""
    return [*paragraph(f"exclave: {message}"), *paragraph(f"  to do: {hint}")]


def print_json(tree: Any, indent: int | None = None) -> None:
    """Print one JSON value to standard output, in ASCII."""
    print(json.dumps(tree, indent=indent), flush=True)


def is_terminal() -> bool:
    """True if standard output is a terminal."""
    return sys.stdout.isatty()


def shows_notes() -> bool:
    """True if standard error, where notes go, is a terminal."""
    return sys.stderr.isatty()


def redraw(text: str) -> None:
    """Print a note over the one that was drawn before, on a terminal. `print_err` ends the line."""
    print(f"\r{visible(text)}\x1b[K", end="", file=sys.stderr, flush=True)


def drop_output() -> None:
    """Let nothing more reach standard output: its reader has ended, and Python would report this at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(stream: TextIO, lines: tuple[str, ...] | list[str], end: str = "\n") -> None:
    if not lines:
        return
    text = "\n".join(map(visible, lines))
    encoding = stream.encoding or "utf-8"  # one that lacks a character must not end the command
    print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, file=stream, flush=True)
