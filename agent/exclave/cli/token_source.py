"""Reads a join token: from an argument, a file, a systemd credential, standard input or the terminal, in this order.

Blocking. The token is never printed: a terminal is read without echo.
"""

import os
import select
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

from exclave.errors import UsageError
from exclave.kit.host.output import print_err, prompt

CREDENTIAL = "exclave.join-token"  # name of the file in $CREDENTIALS_DIRECTORY (systemd.exec(5), LoadCredential)

WARNING = (
    "warning: every user of this machine can see a token on the command line, and the shell stores it in its history; "
    "use --token-file"
)

_NAME_FILE = "name its file: exclave join --token-file FILE"

QUIET = 1.0  # seconds before it is reported that a token is awaited
STDIN_TIME = 60.0  # seconds for the first byte of a token

_END, _ERASE = b"\r\n\x04", b"\x7f\x08"


def read_token(argument: str | None, file: str | None, environment: Mapping[str, str]) -> str:
    """The token's text. Raises UsageError if the file cannot be read, or nothing comes on standard input."""
    if argument is not None:
        print_err(WARNING)
        return argument
    if file is not None and file != "-":
        return _read_file(Path(file))
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if file is None and folder is not None and (Path(folder) / CREDENTIAL).exists():
        return _read_file(Path(folder) / CREDENTIAL)
    if sys.stdin is None:  # Python's value for a closed one
        raise UsageError("standard input is closed, so there is no join token", _NAME_FILE)
    if sys.stdin.isatty():
        return _read_terminal(sys.stdin.fileno())
    return _read_standard_input()


def _read_standard_input() -> str:
    """All of standard input. Raises UsageError if nothing comes: a script may leave it open, with nobody to write."""
    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # no file, but text in memory
        return sys.stdin.read().strip()
    if not select.select([descriptor], [], [], QUIET)[0]:
        print_err("waiting for the join token on standard input")
        if not select.select([descriptor], [], [], STDIN_TIME)[0]:
            text = f"no join token came on standard input within {STDIN_TIME:.0f} s"
            raise UsageError(text, _NAME_FILE)
    return sys.stdin.read().strip()


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not text"
        hint = "name a file that contains the token"
        raise UsageError(f"cannot read the token file {path}: {reason}", hint) from None


def _read_terminal(descriptor: int) -> str:
    before = termios.tcgetattr(descriptor)
    raw = termios.tcgetattr(descriptor)
    # In canonical mode the kernel cuts lines at 4,095 bytes; a token may be longer.
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, raw)
    try:
        # After tcsetattr: earlier input would be echoed and cut.
        prompt("join token: ")
        return _read_line(descriptor).decode("utf-8", "replace").strip()
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        print_err("")


def _read_line(descriptor: int) -> bytes:
    line = bytearray()
    while True:
        for key in os.read(descriptor, 65536) or b"\x04":
            if key in _END:
                return bytes(line)
            if key in _ERASE:
                del line[-1:]
            else:
                line.append(key)
