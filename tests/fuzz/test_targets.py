"""No input makes a parser of bytes from outside fail. `./tests/run --fuzz SECONDS` tries each for longer.

A failure prints the bytes. Add them to the tests of that parser, with the error that they ought to cause.
"""

import os
import time

import pytest
from hypothesis import HealthCheck, given, seed, settings

from fuzz.agent import AGENT_TARGETS
from fuzz.images import TARGETS as IMAGE_TARGETS
from fuzz.inputs import giants, inputs
from fuzz.own_files import OWN_FILES
from fuzz.sandbox import SANDBOX_TARGETS
from fuzz.target import Target

TARGETS = (*AGENT_TARGETS, *IMAGE_TARGETS, *OWN_FILES, *SANDBOX_TARGETS)
SECONDS = float(os.environ.get("EXCLAVE_FUZZ", "0"))
"""Seconds for each target; 0: a few inputs only."""

EXAMPLES, BATCH = 20, 1000
"""Inputs of each target in a run of all tests, and between two reads of the clock with --fuzz."""

SIZE = 64 * 1024
BRIEF = 0.1
"""Seconds of processor time for large inputs in a run of all tests."""

each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@each_target
def test_what_is_fine_is_read(target: Target) -> None:
    for content in target.seeds:
        target.parse(content)


@each_target
def test_only_declared_errors_come_out(target: Target) -> None:
    ends = time.monotonic() + SECONDS
    number = 0
    while number == 0 or time.monotonic() < ends:
        _try(target, number)
        number += 1


def _try(target: Target, number: int) -> None:
    @settings(max_examples=BATCH if SECONDS else EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs(target.seeds))
    def read(content: bytes) -> None:
        target.run(content)

    (seed(time.time_ns() + number)(read) if SECONDS else read)()


@each_target
def test_a_large_input_takes_bounded_time_and_memory(target: Target) -> None:
    used = 0.0
    for number, content in enumerate(giants(target.seeds, SIZE)):
        used += target.run(content)
        if number % 8 == 0:
            target.run_measured(content)
        if used > BRIEF and not SECONDS:
            return
