"""How a command ends: exit codes and reports. A closed pipe is tested with the whole program, in tests/cli."""

import json
import os
from collections.abc import Callable

import pytest

from exclave.errors import Fault, HostError
from exclave.kit.host.exit_code import run_command

FULL = HostError(Fault.DISK, "the disk is full", "free some space")


def failing(problem: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise problem

    return command


def test_success_is_the_commands_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: 3, in_json=True) == 3
    assert capsys.readouterr() == ("", "")


def test_a_failure_is_two_lines_for_a_person_and_one_object_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing(FULL), in_json=False) == 33
    assert capsys.readouterr() == ("", "exclave: the disk is full\n  to do: free some space\n")
    assert run_command(failing(FULL), in_json=True) == 33
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"] == {
        "code": 33,
        "word": "disk",
        "message": "the disk is full",
        "hint": "free some space",
    }
    assert shown.err == ""


def test_each_line_of_a_failure_has_the_journals_priority_if_the_journal_reads_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{read.st_dev}:{read.st_ino}")
    run_command(failing(FULL), in_json=False)
    assert capfd.readouterr().err == "<3>exclave: the disk is full\n<3>  to do: free some space\n"
    monkeypatch.setenv("JOURNAL_STREAM", f"{read.st_dev}:{read.st_ino + 1}")
    run_command(failing(FULL), in_json=False)
    assert capfd.readouterr().err == "exclave: the disk is full\n  to do: free some space\n"


def test_a_bug_shows_its_place_and_not_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing(KeyError("exclave1_x")), in_json=True) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["word"] == "bug"
    assert shown.err.startswith("builtins.KeyError\n  ")
    assert "exclave1_x" not in shown.out + shown.err


def test_an_interrupt_is_130_and_an_exit_stays_one() -> None:
    assert run_command(failing(KeyboardInterrupt()), in_json=False) == 130
    with pytest.raises(SystemExit):
        run_command(failing(SystemExit(2)), in_json=False)
