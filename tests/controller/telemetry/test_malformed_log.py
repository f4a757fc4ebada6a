"""What is logged of objects that cannot be used."""

import re

import pytest

from exclave.controller.telemetry.malformed_log import EVERY, MOST, MalformedLog
from exclave.errors import ClusterError, Fault


def test_each_is_named_once_a_minute_however_often_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    malformed = MalformedLog(lambda: now)
    ran = []
    for name in ("Member shop/a", "Member shop/b", "Member shop/a"):
        with malformed.isolate(name):
            ran.append(name)
            {}["uid"]
    assert len(ran) == 3
    why = "KeyError (telemetry/test_malformed_log.py:LINE)"
    lines = [f"Member shop/{name} cannot be used, and is left as it is: {why}" for name in "ab"]
    assert [re.sub("py:[0-9]+", "py:LINE", line) for line in caplog.messages] == lines
    now += EVERY
    malformed.report("Member shop/a", KeyError("uid"))
    assert len(caplog.messages) == 3


def test_a_clock_that_is_set_back_does_not_silence_it(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    malformed = MalformedLog(lambda: now)
    malformed.report("Lease shop/a", TypeError())
    now = 10.0
    malformed.report("Lease shop/a", TypeError())
    assert len(caplog.messages) == 2


def test_what_is_no_fault_of_the_object_comes_out() -> None:
    with pytest.raises(ClusterError), MalformedLog(lambda: 0.0).isolate("Member shop/a"):
        raise ClusterError(Fault.UNREACHABLE, "nobody answers", "wait")


def test_objects_without_number_fill_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    malformed = MalformedLog(lambda: now)
    for number in range(3 * MOST):
        malformed.report(f"Lease shop/{number}", TypeError())
    assert len(caplog.messages) == MOST
    now += EVERY
    malformed.report("Lease shop/0", TypeError())
    assert len(caplog.messages) == MOST + 1
