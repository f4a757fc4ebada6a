"""What commands print: visible text on streams of any encoding."""

import io
import json
import sys

import pytest

from exclave.kit.formats.visible_text import VisibleText
from exclave.kit.host.output import failure_lines, print_err, print_json, print_out, prompt


def test_each_text_is_one_line_of_its_stream(capsys: pytest.CaptureFixture[str]) -> None:
    print_out("a\nb", VisibleText("c\nd"))
    print_err("\x1b[2J", "")
    prompt("join token: ")
    assert capsys.readouterr() == ("a\\nb\nc\nd\n", "\\x1b[2J\n\njoin token: ")


def test_no_text_prints_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_err(*())
    assert capsys.readouterr() == ("", "")


def test_json_is_ascii_and_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    tree = {"message": "a\n\x1b\x7f\x9b\u202e\ud800é"}
    print_json(tree)
    shown = capsys.readouterr().out
    assert json.loads(shown) == tree
    assert shown.strip().isascii()
    assert shown.strip().isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_a_character_gets_its_number(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    print_out("√ é \ud800")
    shown = {"ascii": r"\u221a \xe9 \ud800", "latin-1": r"\u221a é \ud800", "utf-8": r"√ é \ud800"}[encoding]
    assert stream.buffer.getvalue() == f"{shown}\n".encode(encoding)  # type: ignore[attr-defined]


def test_a_failure_is_its_message_and_the_remedy_and_forges_no_other() -> None:
    assert failure_lines("the disk is full", "free some space") == [
        "exclave: the disk is full",
        "  to do: free some space",
    ]
    assert failure_lines("refused: x\n  to do: curl evil\x1b[K", "ask") == [
        "exclave: refused: x",
        r"      to do: curl evil\x1b[K",
        "  to do: ask",
    ]
