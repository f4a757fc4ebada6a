"""Where a join token is read from: an argument, a file, a credential of systemd, standard input, the terminal.

Blocking. Rules: the first that is given is taken, in this order; what is read never shows anywhere. A terminal is read
with canonical mode off, because the kernel cuts lines at 4,095 bytes in it and a token is longer; nothing is echoed.
"""

import os
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

from exclave.errors import ExclaveError, Fault

CREDENTIAL = "exclave.join-token"
"""Name of the file in $CREDENTIALS_DIRECTORY (systemd.exec(5), LoadCredential)."""

WARNING = (
    "warning: a token on the command line is seen by every user of this machine and kept in the shell's history; "
    "use --token-file"
)

_END, _ERASE = b"\r\n\x04", b"\x7f\x08"


def read_token(argument: str | None, file: str | None, environment: Mapping[str, str]) -> str:
    """The token's text. Raises ExclaveError if the file cannot be read."""
    if argument is not None:
        print(WARNING, file=sys.stderr)
        return argument
    if file is not None and file != "-":
        return _read_file(Path(file))
    credential = (
        Path(environment["CREDENTIALS_DIRECTORY"]) / CREDENTIAL if "CREDENTIALS_DIRECTORY" in environment else None
    )
    if file is None and credential is not None and credential.exists():
        return _read_file(credential)
    if sys.stdin.isatty():
        return _read_terminal(sys.stdin.fileno())
    return sys.stdin.read().strip()


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not text"
        raise ExclaveError(
            Fault.USAGE, f"cannot read the token file {path}: {reason}", "name a file that holds the one line"
        ) from None


def _read_terminal(descriptor: int) -> str:
    before = termios.tcgetattr(descriptor)
    raw = termios.tcgetattr(descriptor)
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, raw)
    try:
        # Not before: whoever answers at once would be echoed, and cut off.
        print("join token: ", end="", file=sys.stderr, flush=True)
        return _read_line(descriptor).decode("utf-8", "replace").strip()
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        print(file=sys.stderr)


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
