"""Probes of a real port, and how they are counted."""

import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from exclave.api.group import Probe
from exclave.kit.tasks.latest import Latest
from exclave.listing import probes
from exclave.listing.probes import ProbeCount, run_probes, try_tcp
from exclave.listing.ready import ProbeResult

PROBE = Probe(8080, failures=3)


def results(outcomes: list[str | None]) -> Iterator[tuple[bool, str]]:
    count = ProbeCount(PROBE)
    for outcome in outcomes:
        result = count.receive(outcome)
        yield result.passing, result.message


def test_a_probe_does_not_pass_before_its_first_success() -> None:
    assert ProbeCount(PROBE).result == ProbeResult(8080, "tcp", False, "not tried yet")
    assert list(results(["refused", None])) == [(False, "refused"), (True, "")]


def test_a_result_stays_until_the_port_fails_several_times() -> None:
    known = (ProbeResult(9090, "tcp", False, "refused"), ProbeResult(8080, "tcp", True, ""))
    count = ProbeCount(PROBE, known)
    assert count.result.passing
    assert [count.receive("refused").passing for _ in range(3)] == [True, True, False]
    assert ProbeCount(Probe(8081, failures=3), known).result.message == "not tried yet"


def test_three_failures_in_a_row_make_it_fail_and_one_success_makes_it_pass() -> None:
    assert list(results([None, "a", "b", None, "a", "b", "c", "d", None])) == [
        (True, ""),
        (True, ""),
        (True, ""),
        (True, ""),
        (True, ""),
        (True, ""),
        (False, "c"),
        (False, "d"),
        (True, ""),
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_port_that_accepts_passes_and_another_has_a_reason(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        port = listener.getsockname()[1]
        assert await try_tcp(address, port, 5) == "connection refused"
        listener.listen()
        assert await try_tcp(address, port, 5) is None


async def test_a_port_that_does_not_answer_fails_in_time(autojump_clock: trio.testing.MockClock) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address, port = listener.getsockname()
        with socket.socket() as first, socket.socket() as second:
            for filler in (first, second):  # fill the queue: the kernel then drops what comes
                filler.setblocking(False)
                filler.connect_ex((address, port))
            assert await try_tcp(address, port, 2) == "no answer within 2 s"


async def test_each_probe_runs_at_its_own_pace(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[float, int]] = []

    async def try_port(address: str, port: int, timeout: float) -> str | None:
        tries.append((trio.current_time(), port))
        return None if port == 1 else "connection refused"

    monkeypatch.setattr(probes, "try_tcp", try_port)
    published: Latest[tuple[ProbeResult, ...]] = Latest(())
    with trio.move_on_after(5):
        await run_probes("10.0.0.1", [Probe(1, every=2.0), Probe(2, every=3.0)], published)
    assert sorted(tries) == [(0, 1), (0, 2), (2, 1), (3, 2), (4, 1)]
    assert published.value == (ProbeResult(1, "tcp", True, ""), ProbeResult(2, "tcp", False, "connection refused"))


async def test_a_probe_that_is_added_later_counts_from_its_first_attempt(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace: list[list[tuple[int, str]]] = []

    async def attempt(address: str, port: int, timeout: float) -> str | None:
        await trio.sleep(1)
        return "refused" if port == 9090 else None

    monkeypatch.setattr(probes, "try_tcp", attempt)
    published: Latest[tuple[ProbeResult, ...]] = Latest((ProbeResult(8080, "tcp", True, ""),))
    with trio.move_on_after(1.5):
        async with trio.open_nursery() as nursery:
            added = [Probe(8080), Probe(9090)]
            nursery.start_soon(run_probes, "10.77.0.20", added, published, False)
            async for results in published.changes():
                trace.append([(one.port, one.message) for one in results])
    assert trace[0] == [(8080, "")], "one that was not tried yet costs no readiness"
    assert trace[-1] == [(8080, ""), (9090, "refused")]
