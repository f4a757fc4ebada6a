"""Programs run to their end."""

import sys

import pytest
import trio

from exclave.kit.host.command import Finished, run_command


async def test_output_errors_and_status_come_back() -> None:
    done = await run_command(["sh", "-c", "cat; echo problem >&2; exit 3"], stdin=b"given\n")
    assert done == Finished(3, b"given\n", "problem")


async def test_a_program_killed_has_its_signal_as_negative_status() -> None:
    assert (await run_command(["sh", "-c", "kill -9 $$"])).status == -9


async def test_a_program_that_is_missing_is_reported_as_itself() -> None:
    with pytest.raises(FileNotFoundError):
        await run_command(["/nowhere/nft"])


async def test_the_environment_is_the_one_given() -> None:
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
