"""Signals that wait until they can be received."""

import signal
import threading

import pytest

from exclave.kit.tasks.signals import ENDING_SIGNALS, ending_signals_blocked, ending_signals_received


def blocked() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_waits_while_it_is_blocked_and_comes_when_it_can_be_received(number: signal.Signals) -> None:
    received: list[int] = []
    former = signal.signal(number, lambda number, _: received.append(number))
    try:
        with ending_signals_blocked():
            # Not to the process: a thread that an earlier test left would receive it.
            signal.pthread_kill(threading.get_ident(), number)
            assert received == []
            with ending_signals_received():
                assert received == [number]
            assert set(ENDING_SIGNALS) <= blocked()
        assert not set(ENDING_SIGNALS) & blocked()
    finally:
        signal.signal(number, former)
