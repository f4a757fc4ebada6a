"""Checks of the application, from the machine itself: does its port accept on the member's own address?

Rules: an application that listens on 127.0.0.1 only is not reached by the proxy, so the own address is what is tried;
nothing is sent. A probe passes after one success and fails after `failures` in a row; before the first success it does
not pass. What is known of a port stays known while it is tried at another address. Results go to whoever follows them,
and only when they change.
"""

import os
from collections.abc import Sequence

import trio

from exclave.api.group import Probe
from exclave.kit.tasks.latest import Latest
from exclave.listing.ready import ProbeResult

NOT_YET = "not tried yet"


class ProbeCount:
    """Counts a probe's failures. `receive` takes what went wrong, or None, and says how the probe stands."""

    def __init__(self, probe: Probe, results_so_far: Sequence[ProbeResult] = ()) -> None:
        self._probe = probe
        self._failures = 0
        same = (result for result in results_so_far if (result.port, result.kind) == (probe.port, probe.kind))
        self.result = next(same, ProbeResult(probe.port, probe.kind, False, NOT_YET))

    def receive(self, problem: str | None) -> ProbeResult:
        """Take the outcome of one try."""
        if problem is None:
            self._failures = 0
            self.result = ProbeResult(self._probe.port, self._probe.kind, True, "")
            return self.result
        self._failures += 1
        if not self.result.passing or self._failures >= self._probe.failures:
            self.result = ProbeResult(self._probe.port, self._probe.kind, False, problem)
        return self.result


async def run_probes(address: str, probes: Sequence[Probe], results: Latest[tuple[ProbeResult, ...]]) -> None:
    """Try all probes on `address`, each at its own pace, for ever; publish in `results`, from what is there, how they
    stand."""
    counts = [ProbeCount(probe, results.value) for probe in probes]
    results.set(tuple(count.result for count in counts))

    async def run(probe: Probe, count: ProbeCount) -> None:
        while True:
            count.receive(await try_tcp(address, probe.port, probe.timeout))
            results.set(tuple(each.result for each in counts))
            await trio.sleep(probe.every)

    async with trio.open_nursery() as nursery:
        for probe, count in zip(probes, counts, strict=True):
            nursery.start_soon(run, probe, count)


async def try_tcp(address: str, port: int, timeout: float) -> str | None:
    """Connect and close; what went wrong, or None. `timeout` is seconds."""
    family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
    with trio.move_on_after(timeout), trio.socket.socket(family) as probe:
        try:
            await probe.connect((address, port))
        except OSError as problem:
            # Not its own text: newer trio puts the address in front of it.
            return os.strerror(problem.errno).lower() if problem.errno else "connection failed"
        return None
    return f"no answer within {timeout:g} s"
