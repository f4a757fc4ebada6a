"""Which address is found, served and claimed."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as some

from exclave.cluster.endpoint import ServerAddress
from exclave.kit.tasks.latest import Latest
from exclave.member import addresses
from exclave.member.addresses import (
    SLOW,
    AddressChoice,
    AddressFacts,
    Found,
    choose_address,
    choose_addresses,
    find_address,
    first_local,
    slow_move_problem,
    wait_for_move,
)

OLD, NEW, OTHER, FAR, SIX = "10.77.0.20", "10.77.0.21", "10.77.0.22", "192.0.2.9", "fd00:77::20"
NETWORKS = ("10.77.0.0/24", "fd00:77::/64")

STILL = AddressFacts(
    OLD, OLD, networks=NETWORKS, listed=True, is_published=True, here=frozenset({OLD}), served=frozenset({OLD})
)
FOUND = replace(STILL, found=NEW, here=frozenset({OLD, NEW}))
SERVED = replace(FOUND, served=frozenset({OLD, NEW}))
CLAIMED = replace(SERVED, claimed=NEW, former=OLD, is_published=False)
SAID = replace(CLAIMED, is_published=True)
REFUSED = replace(SAID, is_registered=False)
BACK = replace(FOUND, refused=NEW)

CASES: dict[str, tuple[AddressFacts, AddressChoice]] = {
    "nothing has changed": (STILL, AddressChoice((OLD,))),
    "no route now is no change": (replace(STILL, found=""), AddressChoice((OLD,))),
    "no address yet": (AddressFacts("", ""), AddressChoice()),
    "the first address ever": (AddressFacts("", NEW), AddressChoice((NEW,), claim=NEW)),
    "another one is served beside the old one before it is claimed": (FOUND, AddressChoice((NEW, OLD), moving_to=NEW)),
    "the old one is gone": (replace(FOUND, here=frozenset({NEW})), AddressChoice((NEW,), moving_to=NEW)),
    "once it is served it is claimed": (SERVED, AddressChoice((NEW, OLD), claim=NEW)),
    "without listed ports it is claimed at once": (
        replace(FOUND, listed=False),
        AddressChoice((NEW, OLD), claim=NEW),
    ),
    "while it is unknown whether ports are listed, it is served first": (
        replace(FOUND, listed=None),
        AddressChoice((NEW, OLD), moving_to=NEW),
    ),
    "claimed, and the old one is served while it may be listed": (CLAIMED, AddressChoice((NEW, OLD))),
    "claimed, and the old one is gone": (replace(CLAIMED, here=frozenset({NEW})), AddressChoice((NEW,))),
    "a third one meanwhile": (
        replace(CLAIMED, found=OTHER, here=frozenset({OLD, NEW, OTHER})),
        AddressChoice((OTHER, NEW, OLD), moving_to=OTHER),
    ),
    "refused, and the old one is here: back": (REFUSED, AddressChoice((OLD,), revert=True)),
    "refused, and the old one is gone: it waits for it to be free": (
        replace(REFUSED, here=frozenset({NEW})),
        AddressChoice((NEW,)),
    ),
    "a condition of the address before is no refusal of this one": (
        replace(REFUSED, is_published=False),
        AddressChoice((NEW, OLD)),
    ),
    "an address of another family, and the old one is gone": (
        replace(FOUND, found=SIX, here=frozenset({SIX})),
        AddressChoice((SIX,), moving_to=SIX),
    ),
    "of another family, and the old one is here and listed: walked": (
        replace(FOUND, found=SIX, here=frozenset({OLD, SIX})),
        AddressChoice((OLD,), walk_back=True),
    ),
    "of another family, while it is unknown whether ports are listed": (
        replace(FOUND, found=SIX, here=frozenset({OLD, SIX}), listed=None),
        AddressChoice((OLD,)),
    ),
    "of another family, after walking back": (
        replace(FOUND, found=SIX, here=frozenset({OLD, SIX}), listed=False),
        AddressChoice((SIX,), claim=SIX),
    ),
    "and back before it was claimed": (replace(SERVED, found=OLD), AddressChoice((OLD,))),
}


@pytest.mark.parametrize(("facts", "expected"), CASES.values(), ids=CASES)
def test_what_is_done(facts: AddressFacts, expected: AddressChoice) -> None:
    assert choose_addresses(facts) == expected


def test_an_address_outside_of_the_groups_networks_is_not_claimed_and_the_problem_has_a_hint() -> None:
    choice = choose_addresses(replace(FOUND, found=FAR))
    assert replace(choice, problem=None) == AddressChoice((OLD,))
    assert choice.problem is not None
    assert choice.problem.why == (
        "192.0.2.9 is this machine's address now, and 10.77.0.20 stays the one in the mesh: it lies in none of the "
        "group's networks: 10.77.0.0/24, fd00:77::/64"
    )
    assert choice.problem.hint == (
        "have an admin add its network to the group, or name the address by which pods reach this machine: "
        "member.address in /etc/exclave/config.toml"
    )


def test_an_address_that_was_refused_is_not_claimed_again_while_the_old_one_is_here() -> None:
    choice = choose_addresses(BACK)
    assert replace(choice, problem=None) == AddressChoice((OLD,))
    assert choice.problem is not None
    assert choice.problem.why.endswith("the cluster has refused it, since a living member has it")
    assert "evicted" in choice.problem.hint
    assert choose_addresses(replace(BACK, here=frozenset({NEW}))) == AddressChoice((NEW,), moving_to=NEW)


def test_a_long_move_is_a_problem() -> None:
    assert slow_move_problem(FOUND, SLOW - 0.1) is None
    problem = slow_move_problem(FOUND, SLOW)
    assert problem is not None
    assert problem.why.startswith(f"{NEW} is this machine's address now; pods still use {OLD}")
    assert "exclave proxy swap" in problem.hint


ADDRESSES = some.sampled_from(["", OLD, NEW, OTHER, FAR, SIX])
FACTS = some.builds(
    AddressFacts,
    claimed=ADDRESSES,
    found=ADDRESSES,
    former=ADDRESSES,
    refused=ADDRESSES,
    here=some.frozensets(some.sampled_from([OLD, NEW, OTHER, FAR, SIX])),
    served=some.frozensets(some.sampled_from([OLD, NEW, OTHER, FAR, SIX])),
    networks=some.sampled_from([(), NETWORKS]),
    listed=some.sampled_from([True, False, None]),
    is_published=some.booleans(),
    is_registered=some.booleans(),
)


@given(FACTS)
def test_addresses_that_pods_may_use_are_served(facts: AddressFacts) -> None:
    choice = choose_addresses(facts)
    families = {":" in address for address in choice.serve}
    assert len(families) <= 1, "a proxy takes inbound traffic of one family"
    if choice.claim and facts.claimed and facts.listed is not False:
        assert choice.claim in facts.served
    if not choice.revert and facts.claimed in facts.here and facts.listed is not False:
        assert facts.claimed in choice.serve, "it is listed, and stands here"
    if facts.networks and choice.claim:
        assert choice.claim not in (FAR,)


FOUR, SIX = Found("10.0.0.5", "route to 10.0.0.1"), Found("fd00::5", "route to fd00::1")

HAVE = Found("10.9.9.9", "another")

SOURCES: dict[str, tuple[str | None, list[Found], Found | None]] = {
    "a configured address is used unchanged": ("192.0.2.9", [FOUR], Found("192.0.2.9", "configured")),
    "a route's source is used": (None, [FOUR], FOUR),
    "IPv4 comes before IPv6": (None, [SIX, FOUR], FOUR),
    "IPv6 alone will do": (None, [SIX], SIX),
    "the first server's route wins": (None, [FOUR, Found("10.9.9.9", "another")], FOUR),
    "no loopback": (None, [Found("127.0.0.1", "lo"), Found("::1", "lo")], None),
    "no link-local address": (None, [Found("fe80::1%eth0", "x"), Found("169.254.1.1", "x")], None),
    "no route, no address": (None, [], None),
}


@pytest.mark.parametrize(("override", "sources", "expected"), SOURCES.values(), ids=SOURCES)
def test_choice(override: str | None, sources: list[Found], expected: Found | None) -> None:
    assert choose_address(override, sources) == expected


STAYING: dict[str, tuple[str, list[Found], Found]] = {
    "another server's route comes first now": (HAVE.address, [FOUR, HAVE], HAVE),
    "IPv4 comes to a machine of IPv6": (SIX.address, [FOUR, SIX], SIX),
    "no route has it any more": (HAVE.address, [SIX, FOUR], FOUR),
}


@pytest.mark.parametrize(("current", "sources", "expected"), STAYING.values(), ids=STAYING)
def test_an_address_that_a_route_still_has_stays(current: str, sources: list[Found], expected: Found) -> None:
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


def test_a_loopback_server_yields_no_address() -> None:
    assert find_address([ServerAddress("127.0.0.1", 6443)], None) is None


def test_a_server_without_an_address_yields_none() -> None:
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


async def test_an_address_has_moved_when_two_polls_found_the_new_one(
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
