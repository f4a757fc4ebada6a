"""Who may be a member: each reason with its words, which the joining machine and its admin read."""

from dataclasses import replace
from typing import Any

import pytest

from exclave.controller.admit import Judgement, judge
from exclave.controller.world import Neighbour
from exclave.member.spec import Condition

from .worlds import ADMITTED, GROUP, make_member, make_world, with_status

YES = Judgement(True, "Admitted", "a member of group web")
TWIN = Neighbour("shop", "web-aaaaa-1", "0123456789abcdef", "10.77.0.9")
SQUATTER = Neighbour("pay", "api-bbbbb-2", "another", "10.77.0.20")


def no(reason: str, message: str) -> Judgement:
    return Judgement(False, reason, message)


def several(*networks: str) -> dict[str, Any]:
    return {"group": replace(GROUP, spec=replace(GROUP.spec, networks=networks))}


SCENARIOS: dict[str, tuple[dict[str, Any], dict[str, Any], Judgement]] = {
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
        {"neighbours": (SQUATTER,)},
        no(
            "AddressInUse",
            "10.77.0.20 is the address of the living member api-bbbbb-2. If that is gone: "
            "kubectl exclave member evict api-bbbbb-2 -n pay",
        ),
    ),
    "a member is no neighbour of itself": (
        {},
        {"neighbours": (Neighbour("shop", "web-k7q2x-1", "0123456789abcdef", "10.77.0.20"),)},
        YES,
    ),
    "one of the same name in another namespace is another": (
        {},
        {"neighbours": (Neighbour("pay", "web-k7q2x-1", "another", "10.77.0.9"),)},
        YES,
    ),
}


@pytest.mark.parametrize(("spec", "changes", "wanted"), SCENARIOS.values(), ids=SCENARIOS)
def test_judgement(spec: dict[str, Any], changes: dict[str, Any], wanted: Judgement) -> None:
    assert judge(make_world(make_member(**spec), **changes)) == wanted


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"group": None}, id="its group is gone"),
        pytest.param(several("192.0.2.0/24"), id="its address is no longer in the group's networks"),
        pytest.param({"neighbours": (TWIN, SQUATTER)}, id="a clone lives"),
    ],
)
def test_who_was_admitted_stays_so_though(changes: dict[str, Any]) -> None:
    assert judge(make_world(with_status(make_member(), ADMITTED), **changes)) == YES


def test_who_was_refused_is_judged_again() -> None:
    refused = Condition("Admitted", False, "AddressInUse", "taken")
    assert judge(make_world(with_status(make_member(), refused))) == YES
