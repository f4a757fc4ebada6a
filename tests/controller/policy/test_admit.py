"""Who may be a member: each reason with its message, which the joining machine and its admin read."""

from dataclasses import replace
from typing import Any

import pytest

from exclave.api.member import Condition
from exclave.api.requests import Object
from exclave.controller.policy.admit import AdmitResult, address_refusal, admit, is_listed_elsewhere
from exclave.controller.policy.mark import mark_of
from exclave.controller.policy.snapshot import Neighbour
from support.issuers import without_group

from ..snapshots import (
    ADDRESS,
    ADMITTED,
    GROUP,
    MARK_KEY,
    MESH,
    NAME,
    NOW,
    make_member,
    make_snapshot,
    marked,
    settled_snapshot,
    with_metadata,
    with_status,
)

YES = AdmitResult(True, "Admitted", "a member of group web")
TWIN = Neighbour("shop", "web-aaaaa-1", "0123456789abcdef", live=True)
HOLDER = Neighbour("pay", "api-bbbbb-2", "another", ADDRESS, frozenset({ADDRESS}), live=True)


def no(reason: str, message: str) -> AdmitResult:
    return AdmitResult(False, reason, message)


def several(*networks: str) -> dict[str, Any]:
    return {"group": replace(GROUP, spec=replace(GROUP.spec, networks=networks))}


SCENARIOS: dict[str, tuple[dict[str, Any], dict[str, Any], AdmitResult]] = {
    "a machine with an address of the group's network is admitted": ({}, {}, YES),
    "one of several networks is enough": ({}, several("192.0.2.0/24", "10.0.0.0/8"), YES),
    "an IPv6 address lies in an IPv6 network": ({"addresses": ["fd00::7"]}, several("10.0.0.0/8", "fd00::/64"), YES),
    "an address outside of them is refused": (
        {"addresses": ["192.0.2.7"]},
        {},
        no("AddressRefused", "192.0.2.7 lies in none of the group's networks: 10.77.0.0/24"),
    ),
    "what is no address is refused": (
        {"addresses": ["10.77.0.999"]},
        {},
        no("AddressRefused", "'10.77.0.999' is not an address, or one of 10.77.0.0/24 no network"),
    ),
    "a network that is none refuses everybody": (
        {},
        several("10.77.0.1/24"),
        no("AddressRefused", "'10.77.0.20' is not an address, or one of 10.77.0.1/24 no network"),
    ),
    **{
        f"{address} is refused, also in a group that may have any": (
            {"addresses": [address]},
            several("0.0.0.0/0", "::/0"),
            no("AddressRefused", f"{plain} is {kind}, which no pod can use to reach the machine"),
        )
        for address, plain, kind in (
            ("127.0.0.1", "127.0.0.1", "a loopback address"),
            ("::1", "::1", "a loopback address"),
            ("169.254.169.254", "169.254.169.254", "a link-local address"),
            ("::ffff:224.0.0.1", "224.0.0.1", "a multicast address"),
            ("0.0.0.0", "0.0.0.0", "the unspecified address"),
        )
    },
    **{
        f"the address of {pod} is refused, also in a group that may have any": (
            {"addresses": [address]},
            several("0.0.0.0/0"),
            no(
                "AddressRefused",
                f"{address.removeprefix('::ffff:')} is the address of a pod of Linkerd's control plane, or of the DNS",
            ),
        )
        for pod, address in (
            ("Linkerd's destination controller", "10.42.0.2"),
            ("its policy controller", "::ffff:10.42.0.3"),
            ("the cluster's DNS", "10.42.0.4"),
        )
    },
    "no address is refused": ({"addresses": []}, {}, no("AddressRefused", "one address was expected, found 0")),
    "two addresses are refused, one would be unknown to policies": (
        {"addresses": ["10.77.0.20", "10.77.0.21"]},
        {},
        no("AddressRefused", "one address was expected, found 2"),
    ),
    "a group that does not exist is named": (
        {},
        {"group": None},
        no("GroupNotFound", "there is no WorkloadGroup web in namespace shop"),
    ),
    "a CSR that could not be signed is refused while somebody watches": (
        {"csr": "nonsense"},
        {},
        no("RequestRefused", "csr: a PEM request was expected: ValueError"),
    ),
    "so is a delivery key that nothing could be sealed to": (
        {"deliveryKey": "nonsense"},
        {},
        no("RequestRefused", "deliveryKey: a P-256 public key in PEM was expected: ValueError"),
    ),
    "the same machine twice is refused with both names and the remedy": (
        {},
        {"neighbours": (TWIN,)},
        no(
            "MachineKnown",
            "web-k7q2x-1 and the living member web-aaaaa-1 are the same machine: a clone, or one that was "
            "reinstalled. If web-aaaaa-1 is gone: kubectl exclave member evict web-aaaaa-1 -n shop",
        ),
    ),
    "a living member's address is refused, also across namespaces": (
        {},
        {"neighbours": (HOLDER,)},
        no(
            "AddressInUse",
            "10.77.0.20 is the address of the living member api-bbbbb-2. If that is gone: "
            "kubectl exclave member evict api-bbbbb-2 -n pay",
        ),
    ),
    "one whom nobody can certify waits, and is told why": (
        {},
        {"mesh": None, "mesh_fault": "the controller can certify nobody yet: the issuer's Secret is missing"},
        no("NotReady", "the controller can certify nobody yet: the issuer's Secret is missing"),
    ),
    "one whose group is not ready waits, too": (
        {},
        {"group_wait": "RightsMissing: a part of its Roles is missing"},
        no("NotReady", "group web takes no new members for now: RightsMissing: a part of its Roles is missing"),
    ),
    "so does one that would be certified by an issuer whose time is over": (
        {},
        {"mesh": replace(MESH, issuer_ends=NOW)},
        no(
            "NotReady",
            "the issuer's certificate, or one above it, has expired: nobody can be certified before it is renewed",
        ),
    ),
    "one whose name the issuer may not certify": (
        {},
        {"mesh": replace(MESH, issuers=(without_group("shop"),))},
        no(
            "GroupNotAccepted",
            "group web takes no new members: 'CN=issuer' excludes the name "
            "'web.shop.serviceaccount.identity.linkerd.cluster.local' (name constraints)",
        ),
    ),
    "one whose name another namespace has": (
        {},
        {"mesh": replace(MESH, issuers=(without_group("bank"),))},
        YES,
    ),
    "what is wrong with it itself is said first": (
        {"addresses": []},
        {"mesh": None},
        no("AddressRefused", "one address was expected, found 0"),
    ),
    "however it is written": (
        {"addresses": ["FD00:0::7"]},
        {
            **several("fd00::/64"),
            "neighbours": (replace(HOLDER, address="fd00::7", listed_addresses=frozenset({"fd00::7"})),),
        },
        no(
            "AddressInUse",
            "fd00::7 is the address of the living member api-bbbbb-2. If that is gone: "
            "kubectl exclave member evict api-bbbbb-2 -n pay",
        ),
    ),
    "an address with a zone is none": (
        {"addresses": ["fe80::1%eth0"]},
        several("fe80::/10"),
        no("AddressRefused", "'fe80::1%eth0' is not an address, or one of fe80::/10 no network"),
    ),
    "that another one says so as well is nothing": (
        {},
        {"neighbours": (replace(HOLDER, listed_addresses=frozenset()),)},
        YES,
    ),
    "nor that it once was given it, and says another now": ({}, {"neighbours": (replace(HOLDER, address=""),)}, YES),
    "one that is silent holds nothing": ({}, {"neighbours": (replace(HOLDER, live=False),)}, YES),
    "nor does one that is being deleted": ({}, {"neighbours": (replace(HOLDER, leaving=True),)}, YES),
    "the same machine is no clone of one that is silent": ({}, {"neighbours": (replace(TWIN, live=False),)}, YES),
    "nor of one that is being deleted": ({}, {"neighbours": (replace(TWIN, leaving=True),)}, YES),
    "another machine at another address is nothing to it": (
        {},
        {"neighbours": (replace(HOLDER, address="10.77.0.9"),)},
        YES,
    ),
}


@pytest.mark.parametrize(("spec", "changes", "wanted"), SCENARIOS.values(), ids=SCENARIOS)
def test_judgement(spec: dict[str, Any], changes: dict[str, Any], wanted: AdmitResult) -> None:
    assert admit(make_snapshot(make_member(**spec), **changes)) == wanted


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"group": None}, id="its group was deleted"),
        pytest.param(several("192.0.2.0/24"), id="its address is no longer in the group's networks"),
        pytest.param({"neighbours": (TWIN, HOLDER)}, id="a clone lives"),
    ],
)
def test_an_admitted_member_stays_admitted_although(changes: dict[str, Any]) -> None:
    assert admit(make_snapshot(marked(with_status(make_member(), ADMITTED)), **changes)) == YES


def renamed(name: str, **metadata: Any) -> Object:
    """An admitted Member of another name or place."""
    return with_metadata(with_status(make_member(), ADMITTED), name=name, **metadata)


FORGED: dict[str, tuple[Object, dict[str, Any], str]] = {
    "with the condition alone, and another's address": (
        with_status(make_member(addresses=["192.0.2.7"]), ADMITTED), {}, "AddressRefused",
    ),
    "with another Member's mark": (
        with_status(make_member(addresses=["192.0.2.7"]), ADMITTED, mark=mark_of(MARK_KEY, renamed("web-k7q2x-2"))),
        {}, "AddressRefused",
    ),
    "with the mark of an earlier Member of its name": (
        with_status(
            make_member(addresses=["192.0.2.7"]), ADMITTED, mark=mark_of(MARK_KEY, renamed(NAME, uid="former"))
        ),
        {}, "AddressRefused",
    ),
    "older than the key, but without an account": (
        with_status(make_member(addresses=["192.0.2.7"]), ADMITTED), {"adoption": "refused"}, "AddressRefused",
    ),
    "of a group that is not accepted": (
        with_status(make_member(), ADMITTED), {"group_refusal": "Invalid: it is not"}, "GroupNotAccepted",
    ),
    "in a namespace that may have no groups, though marked": (
        marked(with_status(make_member(), ADMITTED)), {"namespace_refusal": "is Linkerd's"}, "GroupNotAccepted",
    ),
    "whose slot is written otherwise": (renamed("web-k7q2x-01"), {}, "GroupNotFound"),
    "whose token id is too long": (renamed("web-green-k7q2x1-1"), {}, "GroupNotFound"),
}  # fmt: skip


@pytest.mark.parametrize(("member", "changes", "reason"), FORGED.values(), ids=FORGED)
def test_no_condition_makes_a_member_of_one(member: Object, changes: dict[str, Any], reason: str) -> None:
    result = admit(make_snapshot(member, **changes))
    assert (result.admitted, result.reason) == (False, reason)


def test_without_the_key_of_marks_a_member_stays_and_a_new_one_waits() -> None:
    assert admit(make_snapshot(with_status(make_member(), ADMITTED), mark_key=None)) == YES
    waiting = admit(make_snapshot(mark_key=None, mark_fault="it is damaged"))
    assert waiting == AdmitResult(False, "NotReady", "it is damaged")


def test_a_member_of_an_earlier_version_stays_while_its_accounts_cannot_be_read() -> None:
    member = with_status(make_member(addresses=["192.0.2.7"]), ADMITTED)
    assert admit(make_snapshot(member, adoption="unknown")) == YES
    assert admit(make_snapshot(member, adoption="adopted")) == YES


def test_a_refusal_holds_unless_the_controller_itself_was_not_ready() -> None:
    refused = Condition("Admitted", False, "AddressInUse", "taken")
    assert admit(make_snapshot(with_status(make_member(), refused))) == AdmitResult(False, "AddressInUse", "taken")
    waiting = Condition("Admitted", False, "NotReady", "there is no issuer")
    assert admit(make_snapshot(with_status(make_member(), waiting))) == YES


ORDER = {
    "whoever is listed keeps it": ({"has_ports": True}, {}),
    "then whoever was not told that it has lost it": ({}, {"displaced": True}),
    "then the older one": ({"created": "2026-01-01T00:00:00Z"}, {"created": "2027-01-01T00:00:00Z"}),
    "then the name decides": ({"namespace": "a"}, {"namespace": "b"}),
    "one that is listed is older than any": (
        {"has_ports": True, "created": "2027-01-01T00:00:00Z", "displaced": True},
        {"created": "2026-01-01T00:00:00Z"},
    ),
}


@pytest.mark.parametrize(("first", "second"), ORDER.values(), ids=ORDER)
def test_the_earlier_of_two_members_at_one_address_owns_it(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert replace(HOLDER, **first).rank_at(ADDRESS) < replace(HOLDER, **second).rank_at(ADDRESS)


def test_a_member_at_an_address_is_refused_only_for_an_earlier_one() -> None:
    snapshot = settled_snapshot(serving=True)
    later = replace(HOLDER, has_ports=True, displaced=True)
    assert address_refusal(snapshot.replaced(neighbours=(later,)), GROUP) is None
    assert not is_listed_elsewhere(snapshot.replaced(neighbours=(later,)), GROUP)
    earlier = replace(HOLDER, has_ports=True, created="2020-01-01T00:00:00Z")
    assert address_refusal(snapshot.replaced(neighbours=(earlier,)), GROUP) is not None
    assert is_listed_elsewhere(snapshot.replaced(neighbours=(earlier,)), GROUP)


@pytest.mark.parametrize("change", [{"live": False}, {"leaving": True}, {"address": "10.77.0.9"}], ids=str)
def test_ports_wait_until_no_other_member_lists_ports_at_the_address(change: dict[str, Any]) -> None:
    other = replace(HOLDER, has_ports=True, **change)
    snapshot = settled_snapshot(neighbours=(other,))
    assert address_refusal(snapshot, GROUP) is None and is_listed_elsewhere(snapshot, GROUP)
    assert not is_listed_elsewhere(snapshot.replaced(neighbours=(replace(other, has_ports=False),)), GROUP)
