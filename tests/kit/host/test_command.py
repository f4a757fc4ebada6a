"""Programs run to their end."""

import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.errors import Fault, HostError
from exclave.kit.host.command import Finished, run_command, run_tool


async def test_output_errors_and_status_come_back() -> None:
    done = await run_command(["sh", "-c", "cat; echo problem >&2; exit 3"], stdin=b"given\n")
    assert done == Finished(3, b"given\n", "problem")


async def test_a_program_killed_has_its_signal_as_negative_status() -> None:
    assert (await run_command(["sh", "-c", "kill -9 $$"])).status == -9


async def test_a_program_that_is_missing_is_reported_as_itself() -> None:
    with pytest.raises(FileNotFoundError):
        await run_command(["/nowhere/nft"])


async def test_the_environment_is_that_of_the_parameter() -> None:
    done = await run_command([sys.executable, "-c", "import os; print(os.environ['A'])"], environment={"A": "b"})
    assert done.output == b"b\n"


async def test_much_output_does_not_block_the_program() -> None:
    program = "import sys; sys.stdout.write('x' * 1000000); sys.stderr.write('y' * 1000000)"
    done = await run_command([sys.executable, "-c", program])
    assert (len(done.output), len(done.errors)) == (1_000_000, 1_000_000)


async def test_a_program_that_does_not_read_its_input_does_no_harm() -> None:
    assert (await run_command(["true"], stdin=bytes(1_000_000))).status == 0


async def test_a_program_that_outlives_its_time_is_killed() -> None:
    with pytest.raises(trio.TooSlowError):
        await run_command(["sleep", "1000"], timeout=0.05)


async def test_a_tool_that_is_missing_or_hangs_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as missing:
        await run_tool("nft", "list", "tables")
    assert (missing.value.fault, missing.value.message, missing.value.hint) == (
        Fault.NFT_UNUSABLE,
        "the program nft cannot be run: No such file or directory",
        "install it: apt install nftables",
    )
    (tmp_path / "nft").write_text("#!/bin/sh\nexec /usr/bin/sleep 600\n")
    (tmp_path / "nft").chmod(0o755)
    with pytest.raises(HostError) as hanging:
        await run_tool("nft", "list", "tables")
    assert (hanging.value.fault, hanging.value.message, hanging.value.hint) == (
        Fault.TOOL_HANGS,
        "the program nft did not end within 30 s",
        "see what holds the kernel's tables: nft monitor",
    )


async def test_a_tool_that_is_killed_is_no_refusal_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nft").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "nft").chmod(0o755)
    with pytest.raises(HostError) as killed:
        await run_tool("nft", "list", "tables")
    assert (killed.value.fault, killed.value.message) == (
        Fault.TOOL_HANGS,
        "the program nft was killed by signal 9",
    )


async def test_a_tool_that_fails_returns_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "ip").write_text("#!/bin/sh\necho refused >&2; exit 2\n")
    (tmp_path / "ip").chmod(0o755)
    done = await run_tool("ip", "link")
    assert (done.status, done.errors) == (2, "refused")
