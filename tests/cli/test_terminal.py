"""Lines on a terminal and in a pipe."""

import os
import pty
import re
import subprocess
import sys

import pytest

from exclave.cli.terminal import show_lines

LINES = [("state", "ready since 2027"), ("to do", "[bold]nothing[/bold] at all")]


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show_lines(LINES)
    assert capsys.readouterr().out == "state:       ready since 2027\nto do:       [bold]nothing[/bold] at all\n"


def test_a_terminal_gets_a_table_that_takes_no_text_for_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, line = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(line, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        show_lines(LINES)
    shown = os.read(screen, 65536).decode()
    os.close(screen)
    assert "\x1b[1m" in shown  # the state in bold
    plain = [" ".join(line.split()) for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()]
    assert plain == ["state ready since 2027", "to do [bold]nothing[/bold] at all"]


def test_nobody_pays_for_the_table_in_a_pipe() -> None:
    program = (
        "import sys; from exclave.cli.terminal import *; show_lines([('a', 'b')]); sys.exit('rich' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"a:           b\n")
