"""Labelled lines on a terminal and in a pipe."""

import contextlib
import os
import pty
import re
from collections.abc import Sequence

import pytest

from exclave.cli.terminal import print_lines

LINES = [("state", "ready since 2027"), ("to do", "[bold]nothing[/bold] at all")]
BOLD, RESET = "\x1b[1m", "\x1b[0m"


def on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, lines: Sequence[tuple[str, str]], columns: int = 80, **environment: str
) -> str:
    """What a terminal of this width shows."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), **environment}.items():
        monkeypatch.setenv(name, value)
    screen, line = pty.openpty()
    with os.fdopen(line, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        print_lines(lines)
    shown = b""
    with os.fdopen(screen, "rb", buffering=0) as master, contextlib.suppress(OSError):  # EIO is a terminal's end
        while piece := master.read(65536):
            shown += piece
    return shown.decode().replace("\r\n", "\n")


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(LINES)
    assert capsys.readouterr().out == "state:       ready since 2027\nto do:       [bold]nothing[/bold] at all\n"


def test_a_terminal_gets_coloured_labels_and_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_terminal(monkeypatch, LINES)
    assert f"{BOLD}state:       {RESET}" in shown
    plain = [" ".join(line.split()) for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()]
    assert plain == ["state: ready since 2027", "to do: [bold]nothing[/bold] at all"]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb terminal"])
def test_colours_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    assert on_a_terminal(monkeypatch, LINES[:1], **environment) == "state:       ready since 2027\n"


def test_a_long_text_is_wrapped_beside_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [("problem", "the API server at https://api.example.com:6443 is not reachable"), ("state", "")]
    assert on_a_terminal(monkeypatch, lines, columns=40, NO_COLOR="1") == (
        "problem:     the API server at\n"
        "             https://api.example.com:6443\n"
        "             is not reachable\n"
        "state:       \n"
    )
