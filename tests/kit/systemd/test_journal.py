"""Entries of the journal, as the journal reads them, and what happens where it does not."""

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.kit.systemd import journal
from exclave.kit.systemd.journal import (
    JournalHandler,
    SafeFormatter,
    encode_entry,
    is_journal_stream,
    make_handler,
    mark,
    priority_of,
)


def parse_entry(entry: bytes) -> dict[str, str]:
    """As systemd does: src/libsystemd/sd-journal and journald-native.c."""
    fields: dict[str, str] = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, has_value, value = line.partition(b"=")
        if not has_value:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        assert name.decode() not in fields
        fields[name.decode()] = value.decode()
        entry = rest
    return fields


class Journal:
    """A socket in the place of the journal's, and a logger that writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(10)
        self._socket.bind(str(path))
        self.fields: dict[str, str] = {}
        self.handler = JournalHandler(self.fields)
        self.log = logging.getLogger("exclave.test_journal")
        self.log.propagate = False
        self.log.setLevel(logging.DEBUG)
        self.log.addHandler(self.handler)

    def entry(self) -> dict[str, str]:
        return parse_entry(self._socket.recv(1 << 20))

    def close(self) -> None:
        self.log.removeHandler(self.handler)
        self.log.propagate = True
        self.handler._channel.close()
        self._socket.close()


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setattr(journal, "SOCKET", tmp_path / "socket")
    made = Journal(tmp_path / "socket")
    yield made
    made.close()


@pytest.mark.parametrize("text", ["", "a", "a=b", "a\nb", "\n", "ä", "x" * 5000])
def test_every_text_arrives_as_it_was(text: str) -> None:
    assert parse_entry(encode_entry({"MESSAGE": text, "PRIORITY": "6"})) == {"MESSAGE": text, "PRIORITY": "6"}


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7), (35, 4)],
)
def test_a_level_has_its_priority(level: int, priority: int) -> None:
    assert priority_of(level) == priority


def test_an_entry_has_its_message_its_place_and_the_fields_of_its_time(opened: Journal) -> None:
    opened.fields["EXCLAVE_STATE"] = "starting"
    opened.log.warning("waiting for %s", "the proxy")
    opened.fields.update(EXCLAVE_STATE="ready", EXCLAVE_MEMBER="shop/web-k7q2x-1")
    opened.log.info("ready")
    first, second = opened.entry(), opened.entry()
    assert first.pop("CODE_LINE").isdecimal()
    assert first == {
        "MESSAGE": "waiting for the proxy",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "exclave",
        "LOGGER": "exclave.test_journal",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_an_entry_has_its_message_its_place_and_the_fields_of_its_time",
        "EXCLAVE_STATE": "starting",
    }
    assert (second["EXCLAVE_STATE"], second["EXCLAVE_MEMBER"]) == ("ready", "shop/web-k7q2x-1")


def test_an_exception_has_its_places_and_not_its_text(opened: Journal) -> None:
    try:
        raise ValueError("the token is exclave1_x")
    except ValueError:
        opened.log.exception("a command failed")
    message = opened.entry()["MESSAGE"]
    assert message.startswith("a command failed\nbuiltins.ValueError\n")
    assert "in test_an_exception_has_its_places" in message
    assert "exclave1_x" not in message


def test_what_does_not_fit_goes_to_standard_error(opened: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    opened.log.error("x" * (1 << 22))
    assert capsys.readouterr().err == "<3>" + "x" * (1 << 22) + "\n"


def test_without_a_socket_lines_go_to_standard_error(opened: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    opened.path.unlink()
    opened.log.info("two\nlines")
    assert capsys.readouterr().err == "<6>two\\nlines\n"


def test_a_journal_that_does_not_read_never_blocks_and_is_told_how_many_lines_are_lost(
    opened: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2_000):
        opened.log.info("%d", number)
    read = 0
    while (message := opened.entry()["MESSAGE"]) == str(read):
        read += 1
        if read % 5 == 0:
            opened.log.info("again")
    lost = 2_000 - read
    assert message == f"log lines lost, since the journal did not read: {lost}"
    assert capsys.readouterr().err == ""


def test_the_stream_is_the_one_that_systemd_names(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal_stream(stream.fileno(), named)
        assert not is_journal_stream(stream.fileno(), {})
        assert not is_journal_stream(stream.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
    assert not is_journal_stream(10_000, named)


def test_elsewhere_a_line_has_its_time_and_an_exception_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    handler = make_handler({})
    assert isinstance(handler.formatter, SafeFormatter)
    record = logging.LogRecord("exclave.x", logging.INFO, "x.py", 1, "text", None, (ValueError, ValueError("s3"), None))
    line, *places = handler.format(record).splitlines()
    assert line.endswith(" INFO exclave.x: text")
    assert "s3" not in "".join(places)


def test_every_line_of_a_failure_has_the_priority() -> None:
    lines = ["exclave: it is full", "  to do: free some space"]
    assert mark(lines) == ["<3>exclave: it is full", "<3>  to do: free some space"]


FORGED = "member x: \x1b[2Jgone\n2026-11-30 12:00:00 INFO exclave: all is well\u202e"
SHOWN = r"member x: \x1b[2Jgone\n2026-11-30 12:00:00 INFO exclave: all is well\u202e"


def test_a_message_that_quotes_others_is_one_visible_line(
    opened: Journal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened.log.warning("%s", FORGED)
    assert opened.entry()["MESSAGE"] == SHOWN
    opened.path.unlink()
    opened.log.warning("%s", FORGED)
    assert capsys.readouterr().err == f"<4>{SHOWN}\n"
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    record = logging.LogRecord("exclave.x", logging.INFO, "x.py", 1, "%s", (FORGED,), None)
    (line,) = make_handler({}).format(record).splitlines()
    assert line.endswith(f" INFO exclave.x: {SHOWN}")
