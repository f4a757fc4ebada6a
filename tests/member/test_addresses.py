"""The address a machine is reached by."""

import subprocess
import sys
from typing import Any

import pytest
import trio
import trio.testing

from exclave.cluster.endpoint import ServerAddress
from exclave.kit.tasks.latest import Latest
from exclave.member import addresses
from exclave.member.addresses import Found, choose_address, find_address, first_local, wait_for_move

FOUR, SIX = Found("10.0.0.5", "route to 10.0.0.1"), Found("fd00::5", "route to fd00::1")

HAVE = Found("10.9.9.9", "another")

CASES: dict[str, tuple[str | None, list[Found], Found | None]] = {
    "a configured address is taken as it is": ("192.0.2.9", [FOUR], Found("192.0.2.9", "configured")),
    "a route's source is taken": (None, [FOUR], FOUR),
    "IPv4 comes before IPv6": (None, [SIX, FOUR], FOUR),
    "IPv6 alone will do": (None, [SIX], SIX),
    "the first server's route wins": (None, [FOUR, Found("10.9.9.9", "another")], FOUR),
    "no loopback": (None, [Found("127.0.0.1", "lo"), Found("::1", "lo")], None),
    "no link-local address": (None, [Found("fe80::1%eth0", "x"), Found("169.254.1.1", "x")], None),
    "no route, no address": (None, [], None),
}


@pytest.mark.parametrize(("override", "sources", "expected"), CASES.values(), ids=CASES)
def test_choice(override: str | None, sources: list[Found], expected: Found | None) -> None:
    assert choose_address(override, sources) == expected


STAYING: dict[str, tuple[str, list[Found], Found]] = {
    "another server's route comes first now": (HAVE.address, [FOUR, HAVE], HAVE),
    "IPv4 comes to a machine of IPv6": (SIX.address, [FOUR, SIX], SIX),
    "no route has it any more": (HAVE.address, [SIX, FOUR], FOUR),
}


@pytest.mark.parametrize(("current", "sources", "expected"), STAYING.values(), ids=STAYING)
def test_an_address_that_a_route_still_has_is_kept(current: str, sources: list[Found], expected: Found) -> None:
    assert choose_address(None, sources, current) == expected


def test_the_choice_leaves_a_trace() -> None:
    assert str(FOUR) == "address: [chosen=10.0.0.5 why=route to 10.0.0.1]"


LOCAL = {
    "the own address, and a VIP that is elsewhere now": (("127.0.0.1", "192.0.2.9"), "127.0.0.1"),
    "an address behind a NAT, and the one outside of it": (("192.0.2.9", "127.0.0.1"), "127.0.0.1"),
    "none that is here now": (("192.0.2.9", "192.0.2.10"), "192.0.2.9"),
}


@pytest.mark.parametrize(("known", "local"), LOCAL.values(), ids=LOCAL)
def test_the_address_that_is_this_machine_s_own(known: tuple[str, ...], local: str) -> None:
    assert first_local(known) == local


SERVERS: Latest[tuple[ServerAddress, ...]] = Latest((ServerAddress("10.0.0.1", 443),))


def test_a_loopback_server_gives_no_address() -> None:
    assert find_address([ServerAddress("127.0.0.1", 6443)], None) is None


def test_a_server_without_a_known_address_gives_no_address() -> None:
    assert find_address([], None) is None


SCRIPT = """
import subprocess
from exclave.cluster.endpoint import ServerAddress
from exclave.member.addresses import find_address
for line in ("link set lo up", "link add br0 type bridge", "link set br0 up", "addr add 10.77.0.20/24 dev br0"):
    subprocess.run(["ip", *line.split()], check=True)
print(find_address([ServerAddress("10.99.0.1", 6443), ServerAddress("10.77.0.1", 6443)], None))
"""


def test_the_source_of_the_route_is_found() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout == "address: [chosen=10.77.0.20 why=route to 10.77.0.1]\n"


async def test_an_address_has_moved_when_the_new_one_was_seen_twice(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Found("10.0.0.6", "route")
    seen = iter([FOUR, None, other, FOUR, other, None, other, other])

    def look(*_: Any) -> Found | None:
        return next(seen)

    monkeypatch.setattr(addresses, "find_address", look)
    assert await wait_for_move(SERVERS, None, FOUR.address) == other
    assert trio.current_time() == 56


async def test_the_first_address_ever_counts_at_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([None, None, FOUR])

    def look(*_: Any) -> Found | None:
        return next(seen)

    monkeypatch.setattr(addresses, "find_address", look)
    assert await wait_for_move(SERVERS, None, "") == FOUR
    assert trio.current_time() == 3
