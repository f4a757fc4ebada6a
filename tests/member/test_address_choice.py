"""What becomes of another address, decided from facts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.member.address_choice import SLOW, Decision, Facts, decide, tell_slow

OLD, NEW, OTHER, FAR, SIX = "10.77.0.20", "10.77.0.21", "10.77.0.22", "192.0.2.9", "fd00:77::20"
NETWORKS = ("10.77.0.0/24", "fd00:77::/64")

STILL = Facts(OLD, OLD, networks=NETWORKS, listed=True, is_said=True, here=frozenset({OLD}), served=frozenset({OLD}))
FOUND = replace(STILL, found=NEW, here=frozenset({OLD, NEW}))
SERVED = replace(FOUND, served=frozenset({OLD, NEW}))
CLAIMED = replace(SERVED, claimed=NEW, former=OLD, is_said=False)
SAID = replace(CLAIMED, is_said=True)
REFUSED = replace(SAID, is_registered=False)
BACK = replace(FOUND, refused=NEW)

CASES: dict[str, tuple[Facts, Decision]] = {
    "nothing has changed": (STILL, Decision((OLD,))),
    "no route now is no change": (replace(STILL, found=""), Decision((OLD,))),
    "no address yet": (Facts("", ""), Decision()),
    "the first address ever": (Facts("", NEW), Decision((NEW,), claim=NEW)),
    "another one is served beside the old one before anybody hears": (FOUND, Decision((NEW, OLD), moving_to=NEW)),
    "the old one is gone": (replace(FOUND, here=frozenset({NEW})), Decision((NEW,), moving_to=NEW)),
    "once it is served it is claimed": (SERVED, Decision((NEW, OLD), claim=NEW)),
    "where nobody is told of ports it is claimed at once": (
        replace(FOUND, listed=False),
        Decision((NEW, OLD), claim=NEW),
    ),
    "where nobody knows who is told, it is served first": (
        replace(FOUND, listed=None),
        Decision((NEW, OLD), moving_to=NEW),
    ),
    "claimed, and the old one is served for as long as it may be told": (CLAIMED, Decision((NEW, OLD))),
    "claimed, and the old one is gone": (replace(CLAIMED, here=frozenset({NEW})), Decision((NEW,))),
    "a third one meanwhile": (
        replace(CLAIMED, found=OTHER, here=frozenset({OLD, NEW, OTHER})),
        Decision((OTHER, NEW, OLD), moving_to=OTHER),
    ),
    "refused, and the old one is here: back": (REFUSED, Decision((OLD,), give_up=True)),
    "refused, and the old one is gone: it waits for it to be free": (
        replace(REFUSED, here=frozenset({NEW})),
        Decision((NEW,)),
    ),
    "a word on what was said before is no refusal of this": (replace(REFUSED, is_said=False), Decision((NEW, OLD))),
    "an address of another family, and the old one is gone": (
        replace(FOUND, found=SIX, here=frozenset({SIX})),
        Decision((SIX,), moving_to=SIX),
    ),
    "of another family, and the old one is here and listed: walked": (
        replace(FOUND, found=SIX, here=frozenset({OLD, SIX})),
        Decision((OLD,), walk=True),
    ),
    "of another family, and nobody knows yet who is told": (
        replace(FOUND, found=SIX, here=frozenset({OLD, SIX}), listed=None),
        Decision((OLD,)),
    ),
    "of another family, after walking back": (
        replace(FOUND, found=SIX, here=frozenset({OLD, SIX}), listed=False),
        Decision((SIX,), claim=SIX),
    ),
    "and back before it was claimed": (replace(SERVED, found=OLD), Decision((OLD,))),
}


@pytest.mark.parametrize(("facts", "expected"), CASES.values(), ids=CASES)
def test_what_is_done(facts: Facts, expected: Decision) -> None:
    assert decide(facts) == expected


def test_an_address_outside_of_the_groups_networks_is_not_claimed_and_the_remedy_is_told() -> None:
    decision = decide(replace(FOUND, found=FAR))
    assert replace(decision, kept=None) == Decision((OLD,))
    assert decision.kept is not None
    assert decision.kept.why == (
        "192.0.2.9 is this machine's address now, and 10.77.0.20 stays the one in the mesh: it lies in none of the "
        "group's networks: 10.77.0.0/24, fd00:77::/64"
    )
    assert decision.kept.hint == (
        "have an admin add its network to the group, or name the address by which pods reach this machine: "
        "member.address in /etc/exclave/config.toml"
    )


def test_an_address_that_was_refused_is_not_claimed_again_while_the_old_one_is_here() -> None:
    decision = decide(BACK)
    assert replace(decision, kept=None) == Decision((OLD,))
    assert decision.kept is not None
    assert decision.kept.why.endswith("the cluster has refused it, since a living member has it")
    assert "evicted" in decision.kept.hint
    assert decide(replace(BACK, here=frozenset({NEW}))) == Decision((NEW,), moving_to=NEW)


def test_a_move_that_takes_long_is_told() -> None:
    assert tell_slow(FOUND, SLOW - 0.1) is None
    kept = tell_slow(FOUND, SLOW)
    assert kept is not None
    assert kept.why.startswith(f"{NEW} is this machine's address now; pods are still told of {OLD}")
    assert "exclave proxy swap" in kept.hint


ADDRESSES = some.sampled_from(["", OLD, NEW, OTHER, FAR, SIX])
FACTS = some.builds(
    Facts,
    claimed=ADDRESSES,
    found=ADDRESSES,
    former=ADDRESSES,
    refused=ADDRESSES,
    here=some.frozensets(some.sampled_from([OLD, NEW, OTHER, FAR, SIX])),
    served=some.frozensets(some.sampled_from([OLD, NEW, OTHER, FAR, SIX])),
    networks=some.sampled_from([(), NETWORKS]),
    listed=some.sampled_from([True, False, None]),
    is_said=some.booleans(),
    is_registered=some.booleans(),
)


@given(FACTS)
def test_what_pods_may_be_told_of_is_served(facts: Facts) -> None:
    decision = decide(facts)
    families = {":" in address for address in decision.carried}
    assert len(families) <= 1, "a proxy takes inbound traffic of one family"
    if decision.claim and facts.claimed and facts.listed is not False:
        assert decision.claim in facts.served
    if not decision.give_up and facts.claimed in facts.here and facts.listed is not False:
        assert facts.claimed in decision.carried, "it is listed, and stands here"
    if facts.networks and decision.claim:
        assert decision.claim not in (FAR,)
