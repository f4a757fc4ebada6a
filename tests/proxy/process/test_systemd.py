"""What systemd reports of a unit, how a unit's process ended, and the file with its environment."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.errors import HostError
from exclave.proxy.process.systemd import (
    describe_unit_end,
    is_run_by_systemd,
    parse_state,
    read_output,
    render_environment,
    show_unit,
    start_unit,
)

# Printed by systemd 252.
ACTIVE = """MainPID=50
Result=success
ExecMainCode=0
ExecMainStatus=0
MemoryMax=1610612736
User=exclave-proxy
LoadState=loaded
ActiveState=active
InvocationID=2cc4ef9701964b8f8be385f431543f96
"""
ABSENT = """MainPID=0
Result=success
ExecMainCode=0
ExecMainStatus=0
MemoryMax=infinity
User=
LoadState=not-found
ActiveState=inactive
InvocationID=
"""


def ended(code: int, status: int, result: str) -> str:
    """A unit whose process has ended. `code`: si_code of waitid(2)."""
    return (
        ACTIVE.replace("MainPID=50", "MainPID=0")
        .replace("ActiveState=active", "ActiveState=failed")
        .replace("ExecMainCode=0", f"ExecMainCode={code}")
        .replace("ExecMainStatus=0", f"ExecMainStatus={status}")
        .replace("Result=success", f"Result={result}")
    )


def test_a_running_unit_is_read() -> None:
    state = parse_state(ACTIVE)
    assert (state.is_installed, state.is_running, state.pid, state.user) == (True, True, 50, "exclave-proxy")
    assert (state.invocation, state.memory_max) == ("2cc4ef9701964b8f8be385f431543f96", 1536 * 1024 * 1024)


def test_a_unit_that_is_not_installed_is_read() -> None:
    state = parse_state(ABSENT)
    assert (state.is_installed, state.is_running, state.invocation, state.memory_max) == (False, False, "", None)


def test_a_unit_whose_process_has_just_ended_does_not_run() -> None:
    assert not parse_state(ACTIVE.replace("MainPID=50", "MainPID=0")).is_running


@pytest.mark.parametrize("text", ["", "MainPID=1\n", ACTIVE.replace("MainPID=50", "MainPID=x")])
def test_an_incomplete_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # int's own words differ by version
        parse_state(text)


@pytest.mark.parametrize(
    ("report", "line", "words"),
    [
        (ended(1, 64, "exit-code"), "Invalid configuration", "ended with status 64: Invalid configuration"),
        (ended(2, 15, "success"), "", "was ended by SIGTERM"),
        (ended(3, 11, "core-dump"), "", "was ended by SIGSEGV"),
        (
            ended(2, 9, "oom-kill"),
            "",
            "was ended by the kernel: it used more memory than its unit allows (MemoryMax)",
        ),
        (
            ended(2, 9, "oom-kill"),
            "last line",
            "was ended by the kernel: it used more memory than its unit allows (MemoryMax): last line",
        ),
    ],
)
def test_the_end_of_a_unit_s_process_is_described(report: str, line: str, words: str) -> None:
    assert describe_unit_end(parse_state(report), line) == words


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": str(os.getpid())}, True),
        ({"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": "1"}, False),  # a program of some other unit started us
        ({"SYSTEMD_EXEC_PID": str(os.getpid())}, False),
        ({"INVOCATION_ID": "1"}, False),
        ({}, False),
    ],
)
def test_only_the_process_that_systemd_started_is_run_by_it(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INVOCATION_ID", "SYSTEMD_EXEC_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_run_by_systemd() is expected


def test_special_characters_are_escaped_in_the_environment_file() -> None:
    assert render_environment({"A": 'a "b" $c `d` \\', "PEM": "-----BEGIN\nMII=\n", "C": ""}) == (
        'A="a \\"b\\" \\$c \\`d\\` \\\\"\nPEM="-----BEGIN\nMII=\n"\nC=""\n'
    )


@settings(max_examples=30, deadline=None)  # a shell is started for each
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")), max_size=20))
def test_every_value_is_read_back_as_it_was(values: list[str]) -> None:
    # In double quotes a shell reads the same escapes as systemd: systemd.exec(5), EnvironmentFile=.
    environment = {f"V{number}": value for number, value in enumerate(values)}
    with tempfile.NamedTemporaryFile("w", newline="") as file:
        file.write(render_environment(environment))
        file.flush()
        words = " ".join(f'"${name}"' for name in environment)
        script = f". {file.name}; printf '%s\\0' {words or '-n'}"
        done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert not values or done.stdout.decode().split("\0")[:-1] == values


async def test_a_missing_systemctl_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        await start_unit("exclave-proxy@a.service")
    assert (caught.value.message, caught.value.hint) == (
        "the program systemctl cannot be run: No such file or directory",
        "it is part of systemd, which runs this machine: install systemd again",
    )
    assert await read_output("2cc4ef9701964b8f8be385f431543f96", 1) == ""  # the end is reported without a last line


async def test_a_systemctl_without_an_answer_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus: Connection refused' >&2\nexit 1\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        await show_unit("exclave-proxy@a.service")
    assert (caught.value.message, caught.value.hint) == (
        "systemd did not report the state of exclave-proxy@a.service: Failed to connect to bus: Connection refused",
        "systemctl show exclave-proxy@a.service",
    )


async def test_a_systemctl_that_hangs_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("exclave.proxy.process.systemd.COMMAND_TIME", 0.1)
    with pytest.raises(HostError) as caught:
        await start_unit("exclave-proxy@a.service")
    assert caught.value.message == "systemctl --no-ask-password restart exclave-proxy@a.service did not end within 0 s"
    assert caught.value.hint == "see whether systemd answers: systemctl list-jobs"
