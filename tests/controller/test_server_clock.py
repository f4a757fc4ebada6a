"""Which clock the controller goes by; tests/peers runs a controller whose clock is a day wrong."""

import logging

import pytest

from exclave.controller.server_clock import ServerClock

DAY = 86400.0


@pytest.mark.parametrize(
    ("skew", "wanted"),
    [
        pytest.param(None, 1000.0, id="before the first answer"),
        pytest.param(-1.2, 1000.0, id="a difference that the whole seconds of Date explain"),
        pytest.param(29.0, 1000.0, id="a small difference"),
        pytest.param(31.0, 1031.0, id="a clock that is behind"),
        pytest.param(DAY, 1000.0 + DAY, id="a clock that is a day behind"),
        pytest.param(-DAY, 1000.0 - DAY, id="a clock that is a day ahead"),
    ],
)
def test_the_api_servers_clock_holds_where_the_own_is_wrong(skew: float | None, wanted: float) -> None:
    assert ServerClock(lambda: 1000.0, lambda: skew)() == wanted


def test_a_wrong_clock_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    skews = iter((0.0, DAY, DAY, -DAY, 0.0, 0.0))
    clock = ServerClock(lambda: 0.0, lambda: next(skews))
    for _ in range(6):
        clock()
    assert [record.getMessage().partition(", which")[0] for record in caplog.records] == [
        "the clock of this machine is 86400 s behind the API server's",
        "the clock of this machine is 86400 s ahead of the API server's",
        "the clock of this machine agrees with the API server's",
    ]
