"""A trial connection, with real sockets; `test_move` makes them through real proxies and rules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.errors import HostError
from exclave.swap import trial
from exclave.swap.trial import TRIAL_TIMEOUT, try_connection

PROGRAM = Path(__file__).with_name("programs") / "try_connection.py"


def result_of(pid: int) -> str:
    """The result of a trial by way of process `pid`; 0 is the program's own process."""
    command = ["unshare", "--net", sys.executable, str(PROGRAM), str(pid)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "agent")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout.strip()


def test_one_that_comes_from_the_process_on_trial_succeeds() -> None:
    assert result_of(0) == "proven"  # nothing stands between: the socket that it comes from is its own


def test_one_that_comes_from_somebody_else_proves_nothing() -> None:
    told = result_of(os.getpid())
    assert told.startswith("a trial connection to 169.254.77.4 arrived from 169.254.77.4:")
    assert told.endswith(", which is not a socket of the new proxy")


async def test_where_the_address_is_missing_it_breaks_and_says_so() -> None:
    with pytest.raises(HostError, match=r"a trial connection to 192.0.2.1 broke: "):
        await try_connection("192.0.2.1", os.getpid())


async def test_what_does_not_arrive_is_given_up(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(address: str, pid: int) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trial, "_try", silent)
    with pytest.raises(HostError) as caught:
        await try_connection("169.254.77.4", os.getpid())
    assert trio.current_time() == pytest.approx(TRIAL_TIMEOUT)
    assert caught.value.message == "a trial connection to 169.254.77.4 did not arrive within 10 s"
