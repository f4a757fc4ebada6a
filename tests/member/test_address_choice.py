"""What becomes of another address, decided from facts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.member.address_choice import SLOW, AddressChoice, AddressFacts, choose_addresses, slow_move_problem

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
    "another one is served beside the old one before anybody hears": (FOUND, AddressChoice((NEW, OLD), moving_to=NEW)),
    "the old one is gone": (replace(FOUND, here=frozenset({NEW})), AddressChoice((NEW,), moving_to=NEW)),
    "once it is served it is claimed": (SERVED, AddressChoice((NEW, OLD), claim=NEW)),
    "where nobody is told of ports it is claimed at once": (
        replace(FOUND, listed=False),
        AddressChoice((NEW, OLD), claim=NEW),
    ),
    "where nobody knows who is told, it is served first": (
        replace(FOUND, listed=None),
        AddressChoice((NEW, OLD), moving_to=NEW),
    ),
    "claimed, and the old one is served for as long as it may be told": (CLAIMED, AddressChoice((NEW, OLD))),
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
    "a word on what was said before is no refusal of this": (
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
    "of another family, and nobody knows yet who is told": (
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


def test_an_address_outside_of_the_groups_networks_is_not_claimed_and_the_remedy_is_told() -> None:
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


def test_a_move_that_takes_long_is_told() -> None:
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
def test_what_pods_may_be_told_of_is_served(facts: AddressFacts) -> None:
    choice = choose_addresses(facts)
    families = {":" in address for address in choice.serve}
    assert len(families) <= 1, "a proxy takes inbound traffic of one family"
    if choice.claim and facts.claimed and facts.listed is not False:
        assert choice.claim in facts.served
    if not choice.revert and facts.claimed in facts.here and facts.listed is not False:
        assert facts.claimed in choice.serve, "it is listed, and stands here"
    if facts.networks and choice.claim:
        assert choice.claim not in (FAR,)
