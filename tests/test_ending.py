"""The three ways to end."""

import trio

from exclave.ending import Ending, EndingSwitch


def asked(*endings: Ending) -> Ending:
    switch = EndingSwitch()
    for ending in endings:
        switch.ask_nowait(ending)
    return switch.value


def test_an_end_without_a_request_hands_over() -> None:
    assert asked() is Ending.HAND_OVER


def test_the_first_request_decides() -> None:
    for first in Ending:
        assert asked(first) is first
    assert asked(Ending.LEAVE, Ending.STOP) is Ending.LEAVE
    assert asked(Ending.HAND_OVER, Ending.STOP) is Ending.HAND_OVER
    assert asked(Ending.HAND_OVER, Ending.LEAVE) is Ending.HAND_OVER
    assert asked(Ending.STOP, Ending.HAND_OVER) is Ending.STOP


def test_leaving_outranks_stopping() -> None:
    assert asked(Ending.STOP, Ending.LEAVE) is Ending.LEAVE


async def test_a_waiter_gets_the_ending() -> None:
    switch = EndingSwitch()
    told = []

    async def wait() -> None:
        told.append(await switch.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not told
        switch.ask_nowait(Ending.STOP)
    assert told == [Ending.STOP]
    assert await switch.wait() is Ending.STOP
