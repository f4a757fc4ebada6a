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
from exclave.swap.trial import PATIENCE, try_connection

TRY = """
import os, subprocess, sys, trio
from exclave.errors import HostError
from exclave.swap.trial import try_connection

for words in ("link set lo up", "address add 169.254.77.4/32 dev lo"):
    subprocess.run(["ip", *words.split()], check=True)
try:
    trio.run(try_connection, "169.254.77.4", int(sys.argv[1]) or os.getpid(), strict_exception_groups=True)
    print("proven")
except HostError as problem:
    print(problem.message)
"""


def told_of(pid: int) -> str:
    """What a program with the trial address is told of a trial; 0 is its own process."""
    command = ["unshare", "--net", sys.executable, "-c", TRY, str(pid)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "agent")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout.strip()


def test_one_that_comes_from_the_process_on_trial_succeeds() -> None:
    assert told_of(0) == "proven"  # nothing stands between: the socket that it comes from is its own


def test_one_that_comes_from_somebody_else_proves_nothing() -> None:
    told = told_of(os.getpid())
    assert told.startswith("a trial connection to 169.254.77.4 arrived from 169.254.77.4:")
    assert told.endswith(", which is no socket of the proxy on trial")


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
    assert trio.current_time() == pytest.approx(PATIENCE)
    assert caught.value.message == "a trial connection to 169.254.77.4 did not arrive within 10 s"
