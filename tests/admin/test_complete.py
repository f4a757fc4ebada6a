"""What the tab key gets after `kubectl exclave`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from exclave.admin import complete as complete_module
from exclave.admin.complete import FILES, NO_FILES, complete
from exclave.admin.main import build_parser
from support.admin import KUBECTL
from support.needs import need

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
    assert complete_module.main() == 0
    assert capsys.readouterr().out == "create\nlist\nrevoke\n:4\n"


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["exclave", "rotation", ""], "status\n:4\n"),
        (["exclave", "member", "unc"], "uncordon\n:4\n"),
    ],
)
def test_kubectl_asks_and_hands_the_answer_to_the_shell(typed: list[str], answer: str, tmp_path: Path) -> None:
    need(KUBECTL.is_file(), f"kubectl has not been built: {KUBECTL}")
    for name in ("kubectl-exclave", "kubectl_complete-exclave"):
        program = tmp_path / name
        module = "main" if name == "kubectl-exclave" else "complete"
        run_main = f"from exclave.admin.{module} import main; raise SystemExit(main())"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{run_main}" "$@"\n')
        program.chmod(0o755)
    agent = str(Path(complete_module.__file__).parents[2])
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": agent}
    done = subprocess.run([KUBECTL, "__complete", *typed], capture_output=True, text=True, env=environment)
    assert done.stdout == answer, done.stderr
