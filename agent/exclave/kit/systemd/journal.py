"""Log records as entries of the systemd journal with priority and fields, or as lines on standard error.

Sources: systemd.io/JOURNAL_NATIVE_PROTOCOL; systemd.journal-fields(7); systemd.exec(5), JOURNAL_STREAM; sd-daemon(3).
No handler waits: a journal that does not read must not block the agent.
"""

import logging
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from exclave.errors import bug_lines
from exclave.kit.formats.visible_text import VisibleText, visible, with_head
from exclave.kit.host.output import print_err

SOCKET = Path("/run/systemd/journal/socket")

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)

ERROR_PREFIX = "<3>"  # begins a line of priority "err" on a stream that the journal reads


def priority_of(level: int) -> int:
    """The journal's priority for a level of logging."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


def encode_entry(fields: Mapping[str, str]) -> bytes:
    """One entry. A value of several lines has its length before it, 8 bytes, little-endian."""
    encoded = []
    for name, text in fields.items():
        value = text.encode("utf-8", "replace")
        head = name.encode() + (b"\n" + struct.pack("<Q", len(value)) if b"\n" in value else b"=")
        encoded.append(head + value + b"\n")
    return b"".join(encoded)


def is_journal_stream(descriptor: int, environment: Mapping[str, str]) -> bool:
    """True if the journal reads what is written to this descriptor."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class SafeFormatter(logging.Formatter):
    """A message is one line of visible text: it may quote a machine or a server, which must not forge an entry.

    An exception has its type and places, never its text, which may contain a secret.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """The first line of an entry."""
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802  logging's name
        """The lines of an exception."""
        problem = ei[1] if isinstance(ei, tuple) else None
        return "\n".join(bug_lines(problem)) if isinstance(problem, BaseException) else ""


class JournalHandler(logging.Handler):
    """Sends records to the journal. `fields`: more fields of each entry as they are then; empty ones are left out."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = fields
        self._lost = 0
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.setFormatter(SafeFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; to standard error if it is too long for the socket, or if the socket is not there."""
        try:
            lost = f"log lines lost, since the journal did not read: {self._lost}"
            if self._lost and self._send(logging.WARNING, lost):
                self._lost = 0
            place = {"CODE_FILE": record.pathname, "CODE_LINE": str(record.lineno), "CODE_FUNC": record.funcName or ""}
            if not self._send(record.levelno, self.format(record), {"LOGGER": record.name, **place}):
                self._lost += 1
        except Exception:
            self.handleError(record)

    def _send(self, level: int, message: str, more: Mapping[str, str] | None = None) -> bool:
        """False if the journal does not read, and the entry is lost."""
        head = {"MESSAGE": message, "PRIORITY": str(priority_of(level)), "SYSLOG_IDENTIFIER": "exclave"}
        try:
            known = {name: value for name, value in self._fields.items() if value}
            self._channel.sendto(encode_entry({**head, **(more or {}), **known}), str(SOCKET))
        except BlockingIOError:
            return False
        except OSError:
            print_err(*mark(message.splitlines(), f"<{priority_of(level)}>"))
        return True


def mark(lines: Iterable[str], prefix: str = ERROR_PREFIX) -> list[VisibleText]:
    """The lines with a prefix on each, which the journal reads as its priority."""
    return [with_head(prefix, line) for line in lines]


def make_handler(fields: Mapping[str, str]) -> logging.Handler:
    """The handler for this process: the journal, if it reads standard error; else lines there, with their time."""
    if is_journal_stream(2, os.environ) and SOCKET.exists():
        return JournalHandler(fields)
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler
