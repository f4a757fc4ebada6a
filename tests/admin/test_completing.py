"""What the tab key gets after `kubectl exclave`."""

import sys

import pytest

from exclave.admin import completing
from exclave.admin.completing import FILES, NO_FILES, complete
from exclave.admin.main import build_parser

ROWS: dict[str, tuple[list[str], list[str], int]] = {
    "half a subject": (["me"], ["member"], NO_FILES),
    "a subject's verbs": (
        ["member", ""], ["cordon", "describe", "evict", "list", "uncordon"], NO_FILES,
    ),
    "half a verb": (["token", "cre"], ["create"], NO_FILES),
    "half an option of a verb": (
        ["group", "create", "web", "--pr"], ["--probe"], NO_FILES,
    ),
    "an option's choices": (["member", "list", "-o", ""], ["json", "name", "wide", "yaml"], NO_FILES),
    "half a choice": (["group", "create", "web", "--capture", "c"], ["cluster"], NO_FILES),
    "an option that takes a file": (["token", "create", "web", "--ca-file", ""], [], FILES),
    "after an option and its value": (["-n", "shop", "rotation", ""], ["status"], NO_FILES),
    "a value that is named as a command": (["-n", "member", "tok"], ["token"], NO_FILES),
    "an option without a value": (["member", "list", "-A", "--gr"], ["--group"], NO_FILES),
    "a name, which only the cluster knows": (["member", "evict", "web-"], [], NO_FILES),
    "what Linkerd alone asks for": (["_"], [], NO_FILES),
    "an option of no command": (["--nonsense", "memb"], ["member"], NO_FILES),
}  # fmt: skip


@pytest.mark.parametrize(("typed", "words", "directive"), ROWS.values(), ids=ROWS)
def test_half_a_word_is_completed(typed: list[str], words: list[str], directive: int) -> None:
    assert complete(build_parser("kubectl exclave"), typed) == (words, directive)


def test_nothing_typed_offers_every_subject() -> None:
    words, _ = complete(build_parser("kubectl exclave"), [])
    assert {"install", "group", "token", "member", "rotation", "check", "uninstall"} <= set(words)


def test_kubectl_gets_a_word_a_line_and_the_directive(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-exclave", "token", ""])
    assert completing.main() == 0
    assert capsys.readouterr().out == "create\nlist\nrevoke\n:4\n"
