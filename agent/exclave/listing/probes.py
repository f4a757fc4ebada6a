"""Checks whether the application's port accepts connections on the member's own address. Nothing is sent.

An application that listens on 127.0.0.1 only fails, since the proxy cannot reach it either.
"""

import os
from collections.abc import Sequence

import trio

from exclave.api.group import Probe
from exclave.kit.tasks.latest import Latest
from exclave.listing.ready import ProbeResult


class ProbeCount:
    """Counts a probe's failures in a row. `results_so_far`: where its first result comes from."""

    def __init__(self, probe: Probe, results_so_far: Sequence[ProbeResult] = ()) -> None:
        self._probe = probe
        self._failures = 0
        same = (result for result in results_so_far if (result.port, result.kind) == (probe.port, probe.kind))
        found = next(same, None)
        self.is_tried = found is not None
        self.result = found or ProbeResult(probe.port, probe.kind, False, "not tried yet")

    def receive(self, problem: str | None) -> ProbeResult:
        """Count one attempt; `problem` is None if it succeeded. One success passes, `failures` in a row fail."""
        self.is_tried = True
        self._failures = 0 if problem is None else self._failures + 1
        if problem is None or not self.result.passing or self._failures >= self._probe.failures:
            self.result = ProbeResult(self._probe.port, self._probe.kind, problem is None, problem or "")
        return self.result


async def run_probes(
    address: str,
    probes: Sequence[Probe],
    results: Latest[tuple[ProbeResult, ...]],
    is_first: bool = True,
) -> None:
    """Run all probes on `address`, each at its own interval, until cancelled. Old `results` stay until new ones.

    At the first run a probe that was not tried fails. Later on it is left out until it was tried.
    """
    counts = [ProbeCount(probe, results.value) for probe in probes]

    def publish() -> None:
        # A machine that is ready must not lose its traffic only because a probe was added to its group.
        results.set(tuple(count.result for count in counts if is_first or count.is_tried))

    publish()

    async def run(probe: Probe, count: ProbeCount) -> None:
        while True:
            count.receive(await try_tcp(address, probe.port, probe.timeout))
            publish()
            await trio.sleep(probe.every)

    async with trio.open_nursery() as nursery:
        for probe, count in zip(probes, counts, strict=True):
            nursery.start_soon(run, probe, count)


async def try_tcp(address: str, port: int, timeout: float) -> str | None:
    """Connect and close; the failure, or None. `timeout` is in seconds."""
    family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
    with trio.move_on_after(timeout), trio.socket.socket(family) as probe:
        try:
            await probe.connect((address, port))
        except OSError as problem:
            # Not the exception's text: newer trio adds the address.
            return os.strerror(problem.errno).lower() if problem.errno else "connection failed"
        return None
    return f"no answer within {timeout:g} s"
