"""The pauses between runs."""

from hypothesis import given
from hypothesis import strategies as st

from exclave.proxy.restarts import SETTLED, Restarts


def test_pauses_double_from_one_second_to_a_minute() -> None:
    restarts, pauses = Restarts(), []
    for _ in range(9):
        restarts, pause = restarts.after(0.0)
        pauses.append(pause)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_run_of_a_minute_starts_the_count_again() -> None:
    restarts = Restarts(7)
    restarts, pause = restarts.after(SETTLED)
    assert pause == 1
    assert restarts.after(0.0)[1] == 2


@given(st.lists(st.floats(0, 1e9)))
def test_a_proxy_is_always_started_again_within_a_minute(runs: list[float]) -> None:
    restarts = Restarts()
    for ran_for in runs:
        restarts, pause = restarts.after(ran_for)
        assert 1 <= pause <= 60
