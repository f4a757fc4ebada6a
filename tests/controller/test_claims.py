"""Which living members claim a machine or an address."""

from exclave.controller.claims import Claims
from exclave.controller.world import Neighbour

from .worlds import make_member

A, B = ("shop", "web-k7q2x-1"), ("shop", "web-k7q2x-2")


def member(version: str, **spec: object) -> dict[str, object]:
    found = make_member(**spec)
    found["metadata"]["resourceVersion"] = version
    return found


FIRST = Neighbour(*A, "0123456789abcdef", "10.77.0.20")


def test_a_living_member_is_found_by_its_machine_and_by_its_address() -> None:
    claims = Claims()
    claims.keep({A}, {A: member("1")})
    assert claims.like(make_member()) == (FIRST,)
    assert claims.like(make_member(addresses=["10.77.0.99"])) == (FIRST,)
    assert claims.like(make_member(machineHash="f" * 16)) == (FIRST,)
    assert claims.like(make_member(machineHash="f" * 16, addresses=["10.77.0.99"])) == ()


def test_one_that_changes_is_found_by_what_it_claims_now() -> None:
    claims = Claims()
    claims.keep({A}, {A: member("1")})
    claims.refresh(A, member("2", addresses=["10.77.0.99"], machineHash="f" * 16), is_live=True)
    assert claims.like(make_member()) == ()
    assert [one.address for one in claims.like(make_member(addresses=["10.77.0.99"]))] == ["10.77.0.99"]


def test_one_that_dies_is_deleted_or_gone_claims_nothing() -> None:
    for ending in ("dies", "deleted", "gone"):
        claims = Claims()
        both = {A: member("1"), B: member("1")}
        claims.keep({A, B}, both)
        assert len(claims.like(make_member())) == 2
        if ending == "dies":
            claims.keep({A}, both)
        elif ending == "deleted":
            claims.refresh(B, make_member(deleting=True), is_live=True)
        else:
            claims.refresh(B, None, is_live=True)
        assert claims.like(make_member()) == (FIRST,)
