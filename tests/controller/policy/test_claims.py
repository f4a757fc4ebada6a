"""Who owns an address: what a member may claim, and the most that a stolen machine or token can do with it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from exclave.controller.policy.claims import Claims, lies_within, neighbour_of, plain_address, workload_addresses
from exclave.controller.policy.snapshot import Neighbour

from ..fleet import Fleet
from ..snapshots import GROUP, NOW, make_member, settled_snapshot

A, B, C = ("shop", "web-k7q2x-1"), ("shop", "web-k7q2x-2"), ("shop", "web-k7q2x-3")
VICTIM, THIEF = "web-vvvvv-1", "web-ttttt-1"
HERS, HIS = "10.77.0.20", "10.77.0.66"


def one(key: tuple[str, str], machine: str, address: str, *listed_addresses: str, live: bool = True) -> Neighbour:
    return Neighbour(*key, machine, address, frozenset(listed_addresses), live=live)


# The index.


def test_members_are_found_by_machine_and_by_each_stated_or_listed_address() -> None:
    claims = Claims()
    first, second, third = one(A, "m1", "a1", "a1"), one(B, "m2", "a1", "a2"), one(C, "m1", "")
    assert claims.refresh(A, first) == set()
    assert claims.refresh(B, second) == {A}
    assert claims.refresh(C, third) == {A}
    assert claims.sharing_with(A) == (second, third)
    assert claims.sharing_with(B) == claims.sharing_with(C) == (first,)
    assert claims.sharing_with(("shop", "nobody")) == ()


def test_a_change_concerns_members_that_share_an_old_or_new_claim() -> None:
    claims = Claims()
    claims.refresh(A, one(A, "m1", "a1"))
    claims.refresh(B, one(B, "m2", "a2"))
    assert claims.refresh(C, one(C, "m3", "a1")) == {A}
    assert claims.refresh(C, one(C, "m3", "a1")) == set()
    assert claims.refresh(C, one(C, "m3", "a2")) == {A, B}
    assert claims.refresh(C, None) == {B}
    assert claims.refresh(C, None) == set()
    assert claims.sharing_with(B) == ()


def test_members_that_are_not_live_and_list_no_port_are_not_compared_with_each_other() -> None:
    """One join token can make 999 of one machine and one address, and each change would concern all the others."""
    claims, keys = Claims(), [("shop", f"web-k7q2x-{number}") for number in range(1, 1000)]
    assert not any(claims.refresh(key, one(key, "m", "a", live=False)) for key in keys)
    assert claims.sharing_with(keys[0]) == ()
    member = one(A, "m", "a", "a")
    assert len(claims.refresh(A, member)) == len(keys) - 1
    assert claims.sharing_with(B) == (member,)
    silent = replace(member, live=False, has_ports=True)
    assert len(claims.refresh(A, silent)) == len(keys) - 1
    assert claims.sharing_with(B) == (silent,), "its ports are listed"
    assert len(claims.refresh(A, replace(silent, has_ports=False))) == len(keys) - 1, "they may have what it had"
    assert claims.sharing_with(B) == ()


def test_the_neighbour_that_a_member_is_to_others() -> None:
    snapshot = settled_snapshot(serving=True)
    found = neighbour_of(snapshot.member, snapshot.workload, GROUP, live=False)
    assert found == Neighbour(
        *A,
        "0123456789abcdef",
        HERS,
        frozenset({HERS}),
        has_ports=True,
        live=True,  # its status says so
        created="2027-01-15T07:00:00Z",
        admitted_at=NOW - 60,
    )
    assert found.owns(HERS) and found.has_ports_at(HERS) and not found.owns(HIS)


@pytest.mark.parametrize("stated", [[], ["192.0.2.7"], ["nonsense"], [HERS, HIS]], ids=str)
def test_an_address_outside_its_groups_networks_is_not_a_members_own(stated: list[str]) -> None:
    snapshot = settled_snapshot(serving=True)
    found = neighbour_of(make_member(addresses=stated), snapshot.workload, GROUP, live=True)
    assert found.address == "" and not found.owns(HERS)
    assert found.has_ports_at(HERS), "until its ports are withdrawn"
    assert neighbour_of(make_member(), snapshot.workload, None, live=True).address == "", "nor is one without a group"


def test_an_address_in_a_request_under_way_is_listed() -> None:
    found = neighbour_of(make_member(), None, GROUP, live=True, reserved={"spec": {"workloadIPs": [{"ip": HERS}]}})
    assert found.owns(HERS) and not found.has_ports


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (HERS, HERS),
        ("FD00:0::7", "fd00::7"),
        (f"::ffff:{HERS}", HERS),
        ("fe80::1%eth0", None),
        ("10.77.0.020", None),
        ("", None),
    ],
)
def test_an_address_is_written_in_one_way(text: str, plain: str | None) -> None:
    if plain is None:
        with pytest.raises(ValueError):
            plain_address(text)
    else:
        assert plain_address(text) == plain
    assert list(workload_addresses({"spec": {"workloadIPs": [{"ip": text}]}})) == ([plain] if plain else [])


def test_a_network_that_is_none_is_an_error() -> None:
    assert lies_within(HERS, ("192.0.2.0/24", "10.77.0.0/24"))
    assert not lies_within("::ffff:10.77.0.20", ("10.77.0.0/24",))
    with pytest.raises(ValueError):
        lies_within(HERS, ("10.77.0.1/24",))


# What a stolen machine can do at most. Each row: what happens, and whose ports are listed at the victim's address then.


def stolen(victim: str = VICTIM, thief: str = THIEF, **networks: tuple[str, ...]) -> Fleet:
    """The thief's machine is the older member, the victim's is listed."""
    fleet = Fleet(**networks)
    fleet.join(thief, HIS)
    fleet.send_heartbeats(60)
    fleet.join(victim, HERS)
    assert fleet.listed(HERS) == [victim] and fleet.listed(HIS) == [thief]
    return fleet


def claims_hers(fleet: Fleet) -> None:
    fleet.states(THIEF, addresses=[HERS])


def after(*events: Callable[[Fleet], Any]) -> Callable[[Fleet], None]:
    def happens(fleet: Fleet) -> None:
        for event in events:
            event(fleet)

    return happens


def silence(fleet: Fleet) -> None:
    fleet.fall_silent(VICTIM)


def return_(fleet: Fleet) -> None:
    fleet.return_(VICTIM)


def serves(value: bool) -> Callable[[Fleet], None]:
    return lambda fleet: fleet.states(VICTIM, serving=value)


def thief_serves(value: bool) -> Callable[[Fleet], None]:
    return lambda fleet: fleet.states(THIEF, serving=value)


AT_MOST: dict[str, tuple[Callable[[Fleet], None], list[str], str, str]] = {
    "a living member keeps its address, and the thief loses its own ports": (
        claims_hers, [VICTIM], "Registered", "AddressInUse",
    ),
    "however the thief writes it": (
        lambda fleet: fleet.states(THIEF, addresses=["010.77.0.20"]), [VICTIM], "Registered", "AddressRefused",
    ),
    "two addresses are none": (
        lambda fleet: fleet.states(THIEF, addresses=[HIS, HERS]), [VICTIM], "Registered", "AddressRefused",
    ),
    "one that does not serve for a while keeps it as well": (
        after(serves(False), claims_hers, serves(True)), [VICTIM], "Registered", "AddressInUse",
    ),
    "and whatever the thief does meanwhile": (
        after(serves(False), claims_hers, thief_serves(False), thief_serves(True), serves(True)),
        [VICTIM], "Registered", "AddressInUse",
    ),
    "a controller that starts anew decides the same": (
        after(claims_hers, Fleet.restart_controller, Fleet.send_heartbeats), [VICTIM], "Registered", "AddressInUse",
    ),
    "an ExternalWorkload of the thief's that somebody else deletes is not made again where it may not stand": (
        after(serves(False), claims_hers, lambda fleet: fleet.state.workloads.objects.pop(("shop", THIEF)),
              lambda fleet: fleet.reconcile([("shop", THIEF)]), serves(True)),
        [VICTIM], "Registered", "AddressInUse",
    ),
    "one that is silent loses the address, and stays a member": (
        after(silence, claims_hers), [THIEF], "Registered", "Registered",
    ),
    "when it returns it is told, and nothing is taken from whoever has it now": (
        after(silence, claims_hers, return_), [THIEF], "Registered", "Registered",
    ),
    "not even while that one does not serve": (
        after(silence, claims_hers, return_, thief_serves(False)), [], "Registered", "Registered",
    ),
    "nor by a new controller": (
        after(silence, claims_hers, return_, thief_serves(False), Fleet.restart_controller, thief_serves(True)),
        [THIEF], "Registered", "Registered",
    ),
    "the thief that goes back to its own gives it back": (
        after(silence, claims_hers, return_, lambda fleet: fleet.states(THIEF, addresses=[HIS])),
        [VICTIM], "Registered", "Registered",
    ),
    "and so does one that falls silent": (
        after(silence, claims_hers, return_, lambda fleet: fleet.fall_silent(THIEF)),
        [VICTIM], "Registered", "AddressInUse",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("happens", "listed", "kind", "reason"), AT_MOST.values(), ids=AT_MOST)
def test_a_stolen_machine_of_the_same_group(
    happens: Callable[[Fleet], None], listed: list[str], kind: str, reason: str
) -> None:
    fleet = stolen()
    happens(fleet)
    assert fleet.listed(HERS) == listed
    assert fleet.condition(THIEF, kind) == reason
    assert VICTIM in fleet.members(), "a machine removes nobody"


OTHER_GROUPS = {"api": "api-ttttt-1", "pay": "pay-ttttt-1"}


@pytest.mark.parametrize("thief", OTHER_GROUPS.values(), ids=OTHER_GROUPS)
def test_a_stolen_machine_of_a_group_without_the_victims_network_gets_not_even_a_silent_members_address(
    thief: str,
) -> None:
    fleet = Fleet(api=("192.0.2.0/24",), pay=("192.0.2.0/24",))
    fleet.join(thief, "192.0.2.7")
    fleet.join(VICTIM, HERS)
    fleet.fall_silent(VICTIM)
    fleet.states(thief, addresses=[HERS])
    assert fleet.condition(thief, "Registered") == "AddressRefused" and fleet.listed("192.0.2.7") == []
    fleet.return_(VICTIM)
    assert fleet.listed(HERS) == [VICTIM] and fleet.condition(VICTIM, "Registered") == "Registered"


@pytest.mark.parametrize("thief", OTHER_GROUPS.values(), ids=OTHER_GROUPS)
def test_where_two_groups_share_a_network_the_address_of_a_silent_member_is_all_that_changes_hands(thief: str) -> None:
    fleet = stolen(thief=thief)
    fleet.states(thief, addresses=[HERS])
    assert fleet.listed(HERS) == [VICTIM] and fleet.condition(thief, "Registered") == "AddressInUse"
    fleet.fall_silent(VICTIM)
    assert fleet.listed(HERS) == [thief]
    fleet.return_(VICTIM)
    assert fleet.listed(HERS) == [thief] and fleet.condition(VICTIM, "Registered") == "AddressInUse"
    fleet.evict(thief)
    assert fleet.listed(HERS) == [VICTIM] and fleet.condition(VICTIM, "Registered") == "Registered"


@pytest.mark.parametrize(("newcomer", "goes"), [("web-jjjjj-1", True), ("api-jjjjj-1", False), ("pay-jjjjj-1", False)])
def test_a_stolen_join_token_replaces_silent_members_of_its_own_group_alone(newcomer: str, goes: bool) -> None:
    fleet = stolen()
    fleet.join(newcomer, HERS)
    assert fleet.condition(newcomer, "Admitted") == "AddressInUse" and fleet.listed(HERS) == [VICTIM]
    fleet.fall_silent(VICTIM)
    fleet.reconcile([fleet.key(newcomer)])
    assert fleet.gone == [newcomer], "one that was refused is never admitted"
    fleet.join(newcomer, HERS)
    assert fleet.condition(newcomer, "Admitted") == "Admitted"
    assert fleet.listed(HERS) == [newcomer]
    assert (VICTIM in fleet.gone) is goes


def test_of_two_that_join_with_one_address_at_once_one_gets_it_and_the_other_is_refused() -> None:
    fleet = Fleet()
    fleet.silent = {("shop", THIEF), ("shop", VICTIM)}
    fleet.join(VICTIM, HERS)
    fleet.send_heartbeats(1)
    fleet.join(THIEF, HERS)
    assert fleet.condition(VICTIM, "Admitted") == fleet.condition(THIEF, "Admitted") == "Admitted"
    fleet.silent = set()
    fleet.send_heartbeats()
    assert fleet.listed(HERS) == [VICTIM], "the older one, whoever is heard first"
    assert fleet.condition(THIEF, "Registered") == "AddressInUse"
    fleet.restart_controller()
    assert fleet.listed(HERS) == [VICTIM]


def test_one_that_has_lost_its_address_does_not_get_it_back_by_being_older() -> None:
    fleet = Fleet()
    fleet.join(VICTIM, HERS)
    fleet.send_heartbeats(60)
    fleet.join(THIEF, HIS)
    fleet.fall_silent(VICTIM)
    fleet.states(THIEF, addresses=[HERS])
    fleet.return_(VICTIM)
    for event in (thief_serves(False), Fleet.restart_controller, thief_serves(True)):
        event(fleet)
    assert fleet.listed(HERS) == [THIEF], "or the two would take turns"


def test_two_that_swap_their_addresses_do_not_wait_for_each_other() -> None:
    fleet = stolen()
    fleet.states(THIEF, addresses=[HERS])
    fleet.states(VICTIM, addresses=[HIS])
    assert fleet.listed(HERS) == [THIEF] and fleet.listed(HIS) == [VICTIM]


def test_machines_behind_one_translation_with_equal_private_addresses_are_one_address_to_the_cluster() -> None:
    """Pods have one route to it, and Linkerd looks ports up by address alone."""
    fleet = Fleet()
    fleet.join("web-aaaaa-1", "10.77.0.5")
    fleet.join("pay-bbbbb-1", "10.77.0.5")
    assert fleet.listed("10.77.0.5") == ["web-aaaaa-1"]
    assert fleet.condition("pay-bbbbb-1", "Admitted") == "AddressInUse"


def test_a_member_that_was_refused_is_never_admitted_and_its_machine_joins_anew() -> None:
    fleet = Fleet()
    fleet.join("web-aaaaa-1", "10.77.0.5", machine="same")
    fleet.join("web-bbbbb-1", "10.77.0.6", machine="same")
    assert fleet.condition("web-bbbbb-1", "Admitted") == "MachineKnown"
    fleet.evict("web-aaaaa-1")
    assert fleet.condition("web-bbbbb-1", "Admitted") == "MachineKnown", "its machine has ended the join"
    fleet.send_heartbeats(21.0)
    fleet.reconcile([("shop", "web-bbbbb-1")])
    assert "web-bbbbb-1" in fleet.gone
    fleet.join("web-bbbbb-1", "10.77.0.6", machine="same")
    assert fleet.condition("web-bbbbb-1", "Admitted") == "Admitted"
