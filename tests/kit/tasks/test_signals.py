"""Signals that are recorded until they can be received."""

import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from exclave.kit.host.command import run_command
from exclave.kit.host.gated import GATE, start_gated
from exclave.kit.tasks.signals import (
    ENDING_SIGNALS,
    block_until_exec,
    ending_signals_recorded,
    raise_recorded,
    wait_signal,
)


def send(number: signal.Signals) -> None:
    # Not to the process: a thread that an earlier test left would receive it.
    signal.pthread_kill(threading.get_ident(), number)


def blocked() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


@pytest.fixture
def received() -> Iterator[list[int]]:
    """What arrives at the handlers from before."""
    numbers: list[int] = []
    former = {one: signal.signal(one, lambda number, _: numbers.append(number)) for one in ENDING_SIGNALS}
    yield numbers
    for one, handler in former.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_is_recorded_until_it_can_be_received(number: signal.Signals, received: list[int]) -> None:
    with ending_signals_recorded():
        send(number)
        former = signal.signal(number, lambda number, _: received.append(number))
        assert received == []
        raise_recorded()
        assert received == [number]
        signal.signal(number, former)
        raise_recorded()
    assert received == [number]


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_one_that_was_blocked_before_is_recorded(number: signal.Signals, received: list[int]) -> None:
    """As for a process that was executed or started with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    send(number)
    with ending_signals_recorded():
        assert not set(ENDING_SIGNALS) & blocked()
        assert wait_signal(0.0) == number
        assert wait_signal(0.0) is None
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert received == []


def test_a_recorded_one_is_pending_for_the_next_program(received: list[int]) -> None:
    before = blocked()
    with ending_signals_recorded():
        send(signal.SIGHUP)
        block_until_exec()
        assert signal.sigpending() & set(ENDING_SIGNALS) == {signal.SIGHUP}
        assert signal.sigwait([signal.SIGHUP]) == signal.SIGHUP
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert received == []


async def output_of_command(path: Path) -> str:
    return (await run_command(["cat", "/proc/self/status"])).output.decode()


async def output_of_gated(path: Path) -> str:
    gated = start_gated("/bin/sh", ["sh", "-c", f"{GATE}; exec cat /proc/self/status >{path}"], os.environ, [])
    gated.open_gate()
    assert await gated.process.wait() == 0
    gated.process.close()
    return path.read_text()


@pytest.mark.parametrize("start", [output_of_command, output_of_gated])
def test_a_child_can_be_ended_by_them(start: Callable[[Path], Awaitable[str]], tmp_path: Path) -> None:
    """Whether or not they were blocked when the agent started: it has neither their mask nor their handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    with ending_signals_recorded():
        shown = trio.run(start, tmp_path / "status")
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    masks = dict(line.split() for line in shown.splitlines() if line.startswith(("SigBlk", "SigIgn", "SigCgt")))
    ending = sum(1 << (number - 1) for number in ENDING_SIGNALS)
    assert {name: int(mask, 16) & ending for name, mask in masks.items()} == {"SigBlk:": 0, "SigIgn:": 0, "SigCgt:": 0}
