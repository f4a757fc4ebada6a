"""Programs as the demo runs them: started, heard, ended; on the host and in machines."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from exclave_sandbox.expect import UnexpectedError
from exclave_sandbox.stage.namespaces import open_network
from exclave_sandbox.stage.programs import module, open_program, open_traffic, start


def script(text: str) -> list[str]:
    return ["sh", "-c", text]


async def test_a_programs_output_and_exit_status_can_be_read(tmp_path: Path) -> None:
    log = tmp_path / "program.log"
    log.write_text("before\n")
    program = start(script('echo "$WORD"; echo two >&2; exit 3'), log, environment={"WORD": "one"}, in_machine=False)
    assert await program.wait() == 3
    assert log.read_text() == "before\none\ntwo\n"
    assert program.log_tail(2) == "one\ntwo"


async def test_a_program_ends_with_its_block_and_reads_nothing(tmp_path: Path) -> None:
    async with open_program(script("cat; exec sleep 600"), tmp_path / "log", in_machine=False) as program:
        assert psutil.pid_exists(program.pid)
    assert not psutil.pid_exists(program.pid)


async def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path, autojump_clock: object) -> None:
    text = 'trap "" TERM; echo deaf; while :; do sleep 600; done'
    program = start(script(text), tmp_path / "log", in_machine=False)
    while "deaf" not in program.log_tail():
        assert program.started.poll() is None
    family = psutil.Process(program.pid)
    children = family.children()
    assert await program.end() == -signal.SIGKILL
    for child in children:
        child.kill()  # its sleep, which nobody asked to end


async def test_a_signal_to_an_ended_program_is_no_error(tmp_path: Path) -> None:
    program = start(script("exit 0"), tmp_path / "log", in_machine=False)
    assert await program.wait() == 0
    program.send(signal.SIGTERM)
    assert await program.end() == 0


async def test_ctrl_c_at_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    async with open_program(script("exec sleep 600"), tmp_path / "log", in_machine=False) as program:
        assert os.getsid(program.pid) == program.pid


async def test_in_a_machine_its_pid_is_that_of_the_program_itself(tmp_path: Path) -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        ready = tmp_path / "ready"
        os.mkfifo(ready)
        command = machine.command(*script(f"echo >{ready}; exec sleep 600"))
        async with open_program(command, tmp_path / "log") as program:
            subprocess.run(["cat", ready], check=True)
            pid = program.pid
            assert pid != program.started.pid
            assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink(f"/proc/{machine.pid}/ns/net")
        assert not psutil.pid_exists(pid)


async def test_the_pid_of_an_ended_program_is_an_error_with_its_log(tmp_path: Path) -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        program = start(machine.command(*script("echo cannot; exit 1")), tmp_path / "log")
        assert await program.wait() == 1
        with pytest.raises((UnexpectedError, psutil.NoSuchProcess)):
            assert program.pid == 0


COUNT = "import json, sys\nwords = sys.stdin.read()\nprint('x')\nprint(json.dumps({'heard': words}))"


async def test_traffic_can_be_ended_and_its_last_line_is_the_figures() -> None:
    async with open_traffic([sys.executable, "-c", COUNT]) as traffic:
        assert await traffic.end() == b'{"heard": ""}'


async def test_killed_traffic_has_no_figures_and_its_block_ends_it() -> None:
    async with open_traffic([sys.executable, "-c", "raise SystemExit(1)"]) as traffic:
        assert await traffic.end() == b"{}"
    async with open_traffic([sys.executable, "-c", COUNT]):
        pass


def test_a_module_of_ours_runs_with_this_interpreter() -> None:
    assert module("exclave_sandbox.stage.echo", "web", "80") == [
        sys.executable,
        "-m",
        "exclave_sandbox.stage.echo",
        "web",
        "80",
    ]
