"""Pauses that grow to a bound, and are spread by a draw."""

from hypothesis import given
from hypothesis import strategies as st

from exclave.kit.tasks.backoff import FIGHT, PAUSE, WITHIN, Attempts, Backoff, pause_after

DRAWS = st.floats(min_value=0, max_value=1, exclude_max=True)
BACKOFFS = st.builds(
    Backoff,
    first=st.floats(min_value=0.01, max_value=10),
    most=st.floats(min_value=10, max_value=1000),
    factor=st.floats(min_value=1, max_value=10),
    jitter=st.floats(min_value=0, max_value=1),
)


def test_pauses_double_up_to_the_bound() -> None:
    backoff = Backoff(first=1.0, most=60.0)
    assert [backoff.pause(attempt, 0.0) for attempt in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_draw_shortens_the_pause_by_its_share() -> None:
    backoff = Backoff(first=8.0, most=60.0, jitter=0.5)
    assert backoff.pause(0, 0.0) == 8.0
    assert backoff.pause(0, 0.5) == 6.0
    assert backoff.pause(0, 1.0) == 4.0


@given(BACKOFFS, st.integers(0, 10_000), DRAWS)
def test_a_pause_lies_between_its_unjittered_share_and_the_bound(backoff: Backoff, attempt: int, draw: float) -> None:
    pause = backoff.pause(attempt, draw)
    whole = backoff.pause(attempt, 0.0)
    assert 0 <= whole * (1 - backoff.jitter) <= pause + 1e-9
    assert pause <= whole <= backoff.most


@given(BACKOFFS, st.integers(0, 200), DRAWS)
def test_a_later_attempt_with_the_same_draw_never_waits_less(backoff: Backoff, attempt: int, draw: float) -> None:
    assert backoff.pause(attempt, draw) <= backoff.pause(attempt + 1, draw)


@given(BACKOFFS, st.integers(0, 50), DRAWS, DRAWS)
def test_a_greater_draw_never_waits_longer(backoff: Backoff, attempt: int, one: float, other: float) -> None:
    assert backoff.pause(attempt, max(one, other)) <= backoff.pause(attempt, min(one, other))


def test_attempts_wait_longer_until_one_succeeds() -> None:
    attempts, backoff = Attempts(), Backoff(first=1.0, most=60.0)
    assert [attempts.failed(backoff, 0.0) for _ in range(3)] == [1, 2, 4]
    attempts.succeeded()
    assert attempts.failed(backoff, 0.0) == 1


def test_a_long_run_counts_as_a_success() -> None:
    attempts, backoff = Attempts(settled=10.0), Backoff(first=1.0, most=60.0)
    assert [attempts.failed(backoff, 0.0, ran_for=seconds) for seconds in (0.0, 10.0, 10.5, 1.0)] == [1, 2, 1, 2]


def test_whoever_undoes_every_repair_is_answered_slowly() -> None:
    moments = [float(second) for second in range(FIGHT)]
    assert pause_after([], 0.0) == 0.0
    assert pause_after(moments[1:], moments[-1]) == 0.0
    assert pause_after(moments, moments[-1]) == PAUSE
    assert pause_after(moments, moments[0] + WITHIN) == 0.0  # the first of them is too long ago
