"""How often a fleet's heartbeats come, and who sends them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.controller.policy.heartbeats import FORGET_CLONE, MOST_WRITES, SHORTEST, Holders, holder_of, interval_for


@pytest.mark.parametrize(
    ("members", "current", "interval"),
    [
        pytest.param(0, 10.0, 10.0, id="nobody"),
        pytest.param(500, 10.0, 10.0, id="as many as ten seconds allow"),
        pytest.param(501, 10.0, 20.0, id="one more"),
        pytest.param(10_000, 10.0, 320.0, id="ten thousand"),
        pytest.param(499, 20.0, 20.0, id="a few less change nothing again"),
        pytest.param(400, 20.0, 10.0, id="many less do"),
    ],
)
def test_the_interval_follows_the_fleet(members: int, current: float, interval: float) -> None:
    assert interval_for(members, current) == interval


@given(st.integers(0, 100_000), st.integers(0, 12))
def test_the_limit_holds_and_the_choice_is_final(members: int, doublings: int) -> None:
    interval = interval_for(members, SHORTEST * 2**doublings)
    assert members / interval <= MOST_WRITES
    assert interval >= SHORTEST
    assert interval_for(members, interval) == interval


def observed(*holders: str) -> Holders:
    found = Holders()
    for second, holder in enumerate(holders):
        found = found.observe(holder, float(second))
    return found


@pytest.mark.parametrize(
    ("holders", "clones"),
    [
        pytest.param(["a"], None, id="one machine"),
        pytest.param(["a", "a", "a"], None, id="one machine, again and again"),
        pytest.param(["a", "b", "c"], None, id="one machine that boots again and again"),
        pytest.param(["a", "b", "a"], ("a", "b"), id="two that take turns"),
        pytest.param(["a", "b", "a", "b"], ("a", "b"), id="two that go on with it"),
        pytest.param(["a", "", "a"], None, id="a Lease that was emptied"),
    ],
)
def test_a_boot_that_comes_back_means_two_machines(holders: list[str], clones: tuple[str, str] | None) -> None:
    assert observed(*holders).clones(10.0) == clones


def test_two_boots_in_turns_are_reported_in_one_order() -> None:
    heard = ["a", "b", "a"]
    for holder in ("b", "a", "b"):
        heard.append(holder)
        assert observed(*heard).returned == ("a", "b")


def test_a_clone_that_has_fallen_silent_is_forgotten() -> None:
    found = observed("a", "b", "a")
    assert found.clones(2.0 + FORGET_CLONE) == ("a", "b")
    assert found.clones(2.0 + FORGET_CLONE + 1) is None


def test_the_holder_is_read_from_the_lease() -> None:
    assert holder_of({"spec": {"holderIdentity": "boot.nonce"}}) == "boot.nonce"
    assert holder_of({"spec": {}}) == holder_of({}) == ""
