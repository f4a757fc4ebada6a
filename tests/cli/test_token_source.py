"""The sources of a join token in their order; a token is never printed."""

import io
import os
import pty
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.cli import token_source
from exclave.cli.token_source import read_token
from exclave.errors import ExclaveError, Fault

TOKEN = "exclave1_" + "x" * 8000
"""Longer than the 4,095 bytes that a terminal hands over as one line."""


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("  from-stdin\n"))


def test_a_token_as_an_argument_is_used_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_token("argument", None, {}) == "argument"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "warning: every user of this machine can see a token on the command line, and the shell stores it in its "
        "history; use --token-file\n"
    )


def test_a_file_is_read_without_its_line_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text(f"\n{TOKEN}\n")
    assert read_token(None, str(tmp_path / "token"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == TOKEN
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("environment", [True, False], ids=["with a credentials folder", "without"])
def test_a_dash_is_standard_input(piped: None, tmp_path: Path, environment: bool) -> None:
    (tmp_path / "exclave.join-token").write_text("from-systemd")
    assert read_token(None, "-", {"CREDENTIALS_DIRECTORY": str(tmp_path)} if environment else {}) == "from-stdin"


def test_systemds_credential_is_read_before_standard_input(piped: None, tmp_path: Path) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_token(None, None, environment) == "from-stdin"  # the unit has other credentials only
    (tmp_path / "exclave.join-token").write_text("from-systemd\n")
    assert read_token(None, None, environment) == "from-systemd"


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end to write to, of a pipe that is standard input."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "wb"):
        monkeypatch.setattr("sys.stdin", stdin)
        yield writing


def test_a_pipe_is_read_to_its_end(pipe: int, capsys: pytest.CaptureFixture[str]) -> None:
    os.write(pipe, f"{TOKEN}\n".encode())
    timer = threading.Timer(0.05, os.dup2, (os.open(os.devnull, os.O_WRONLY), pipe))  # closes the pipe
    timer.start()
    assert read_token(None, None, {}) == TOKEN
    timer.join()
    assert capsys.readouterr().err == ""


def test_a_pipe_that_nobody_writes_to_is_given_up(
    pipe: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ssh without a terminal leaves it, or a task of Ansible."""
    monkeypatch.setattr(token_source, "QUIET", 0.01)
    monkeypatch.setattr(token_source, "STDIN_TIME", 0.02)  # made short, which the text has as 0 s
    with pytest.raises(ExclaveError) as refused:
        read_token(None, "-", {})
    assert (refused.value.fault, refused.value.message, refused.value.hint) == (
        Fault.USAGE,
        "no join token came on standard input within 0 s",
        "name its file: exclave join --token-file FILE",
    )
    assert capsys.readouterr().err == "waiting for the join token on standard input\n"


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ExclaveError) as refused:
        read_token(None, None, {})
    assert refused.value.message == "standard input is closed, so there is no join token"


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file or directory"), (b"\xff\xfe", "it is not text")],
    ids=["absent", "not text"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExclaveError) as caught:
        read_token(None, str(path), {})
    assert caught.value.fault is Fault.USAGE
    assert caught.value.message == f"cannot read the token file {path}: {why}"
    assert caught.value.hint == "name a file that contains the token"


class Terminal:
    """A terminal at which somebody types, once asked to; what the screen shows stands in `shown`."""

    encoding = "utf-8"

    def __init__(self, typed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        self._keyboard, self.line = pty.openpty()
        self.before = termios.tcgetattr(self.line)
        self.shown = ""
        self._typist = threading.Thread(target=self._type, args=(typed,), daemon=True)
        monkeypatch.setattr("sys.stdin", os.fdopen(os.dup(self.line)))
        monkeypatch.setattr("sys.stderr", self)

    def write(self, text: str) -> None:
        self.shown += text
        if text.startswith("join token"):
            self._typist.start()

    def flush(self) -> None:
        """Nothing is kept back."""

    def _type(self, typed: bytes) -> None:
        while typed:
            typed = typed[os.write(self._keyboard, typed) :]

    def close(self) -> bytes:
        """What the terminal itself has printed."""
        self._typist.join()
        assert termios.tcgetattr(self.line) == self.before
        os.set_blocking(self._keyboard, False)
        try:
            return os.read(self._keyboard, 65536)
        except BlockingIOError:
            return b""
        finally:
            sys.stdin.close()
            os.close(self.line)
            os.close(self._keyboard)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (TOKEN.encode() + b"\r", TOKEN),
        (b"exclavv\x7fe1_x\n", "exclave1_x"),
        (b"\x7f\x08 exclave1_x \x04", "exclave1_x"),
    ],
    ids=["longer than a terminal's line", "a slip put right", "nothing to erase, and the end of input"],
)
def test_a_token_is_read_whole_from_a_terminal_and_not_echoed(
    typed: bytes, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(typed, monkeypatch)
    assert read_token(None, None, {}) == read
    assert terminal.shown == "join token: \n"
    assert terminal.close() == b""
