"""Users and groups, by name and number, and a name service that does not answer."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from exclave.kit.host.accounts import LOOKUP_TIME, User, find_group, find_user, is_number
from support.faults import silent_name_service


@pytest.mark.parametrize("name", ["root", "0"])
async def test_a_user_is_found_by_name_or_number(name: str) -> None:
    assert await find_user(name) == User("root", 0, 0)


@pytest.mark.parametrize("name", ["nobody-here", "4294967290", "99999999999999999999", "-1", "\u0663"])
async def test_a_user_that_does_not_exist_is_none(name: str) -> None:
    assert await find_user(name) is None


async def test_a_group_is_found_by_its_name() -> None:
    assert await find_group("root") == 0
    assert await find_group("nobody-here") is None


def test_a_number_is_written_in_ascii_digits() -> None:
    assert is_number("0") and is_number("4242")
    assert not any(map(is_number, ("-1", "x1", "\u0663", "")))


@pytest.mark.parametrize(("find", "name"), [(find_user, "backup"), (find_user, "4242"), (find_group, "ops")])
async def test_a_silent_name_service_blocks_nothing_and_ends_at_its_limit(
    find: Callable[[str], Awaitable[object]],
    name: str,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await trio.sleep(1.0)
            ticks.append(trio.current_time())

    with silent_name_service(monkeypatch):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            with pytest.raises(trio.TooSlowError):
                await find(name)
            nursery.cancel_scope.cancel()
        assert trio.current_time() == LOOKUP_TIME
    assert len(ticks) >= LOOKUP_TIME - 1
