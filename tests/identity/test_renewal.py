"""When to renew and when to try again: arithmetic, by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.identity.renewal import (
    FIRST_RETRIES,
    ISSUER_SPREAD,
    StoredSvid,
    renew_after_issuer_change,
    renew_at,
    retries,
)
from exclave.identity.svid import Svid

RECEIVED = 1_800_000_000.0
lives = st.floats(10, 90 * 86400)
draws = st.floats(0, 1, exclude_max=True)


def stored(life: float, draw: float) -> StoredSvid:
    ends = RECEIVED + life
    svid = Svid("spiffe://d/ns/n/sa/s", "s.n", (b"",), b"", RECEIVED - 10, ends, 1, "")
    return StoredSvid(svid, RECEIVED, renew_at(RECEIVED, ends, draw))


@given(lives, draws)
def test_it_is_renewed_between_50_and_65_percent_of_its_life_from_receipt(life: float, draw: float) -> None:
    share = (renew_at(RECEIVED, RECEIVED + life, draw) - RECEIVED) / life
    assert 0.4999 <= share <= 0.6501


@given(lives, draws, draws)
def test_a_later_draw_renews_later_so_that_a_fleet_spreads(life: float, one: float, other: float) -> None:
    first, second = (renew_at(RECEIVED, RECEIVED + life, draw) for draw in sorted((one, other)))
    assert first <= second
    whole = renew_at(RECEIVED, RECEIVED + life, 1.0) - renew_at(RECEIVED, RECEIVED + life, 0.0)
    assert whole == pytest.approx(0.15 * life, rel=1e-3, abs=1e-3)


def test_one_that_came_late_is_renewed_by_the_life_it_has_left() -> None:
    assert renew_at(1000.0, 1100.0, 0.0) == 1050.0


@given(st.floats(0, 1e6), draws)
def test_one_that_has_expired_is_due_at_once(late: float, draw: float) -> None:
    assert renew_at(RECEIVED, RECEIVED - late, draw) == RECEIVED


@given(lives, draws, st.floats(0, 1), draws)
def test_a_new_issuer_brings_renewal_forward_never_back(life: float, draw: float, age: float, again: float) -> None:
    certificate, now = stored(life, draw), RECEIVED + age * life
    found = renew_after_issuer_change(certificate, now, again)
    assert found <= certificate.renew_at
    assert found <= now + min(ISSUER_SPREAD, 0.1 * life) + 1e-3
    assert found >= min(now, certificate.renew_at)


@given(lives, st.integers(0, 1000), draws)
def test_retries_grow_to_five_minutes_and_leave_room_for_more(life: float, attempt: int, draw: float) -> None:
    pauses = retries(RECEIVED + life, RECEIVED)
    pause = pauses.pause(attempt, draw)
    assert 0 < pause <= 300.0
    assert pause <= max(life, 1.0) / 10 * 1.001, "ten tries at least in a certificate's life"
    assert pauses.pause(attempt + 1, draw) >= pause


@given(st.integers(0, 1000), draws)
def test_without_a_certificate_the_controller_is_asked_for_at_most_two_signatures_a_second(
    attempt: int, draw: float
) -> None:
    assert 0.5 <= FIRST_RETRIES.pause(attempt, draw) <= 60.0
