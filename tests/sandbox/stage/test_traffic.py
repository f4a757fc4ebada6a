"""The generator against the demo's own application, over loopback, in one process."""

import json
from functools import partial
from urllib.parse import urlsplit

import trio
import trio.lowlevel

from exclave_sandbox.stage import echo, traffic
from exclave_sandbox.stage.programs import module, open_traffic


async def _serve(nursery: trio.Nursery, handler) -> int:
    listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
    return listeners[0].socket.getsockname()[1]


async def _figures(port: int) -> traffic.Figures:
    """Let four workers ask until twenty requests were counted."""
    figures = traffic.Figures()
    ended = trio.Event()
    plan = traffic.Plan(urlsplit(f"http://127.0.0.1:{port}/"), 0.001)
    async with trio.open_nursery() as nursery:
        for number in range(4):
            reuses = number % 2 == 0
            nursery.start_soon(partial(traffic._work, plan, figures, traffic.Renewals(), reuses=reuses, ended=ended))
        while figures.requests < 20:
            await trio.lowlevel.checkpoint()
        ended.set()
    return figures


async def test_every_request_is_answered_and_counted() -> None:
    async with trio.open_nursery() as nursery:
        port = await _serve(nursery, partial(echo.answer, name="db"))
        figures = await _figures(port)
        nursery.cancel_scope.cancel()
    assert not figures.failures
    assert figures.clients == {"None": figures.requests}
    assert 2 < figures.connections < figures.requests
    assert len(figures.samples) == figures.connections - 2  # those of the workers that reuse one are left out


async def test_reused_connections_are_opened_anew_on_request_and_that_breaks_none() -> None:
    async with trio.open_nursery() as nursery:
        port = await _serve(nursery, partial(echo.answer, name="db"))
        url = f"http://127.0.0.1:{port}/"
        words = ["--new", "0", "--reusing", "2", "--rate", "100", "--source", "127.0.0.9"]
        async with open_traffic(module("exclave_sandbox.stage.traffic", url, *words)) as running:
            while json.loads(await running.request())["requests"] < 4:
                await trio.lowlevel.checkpoint()
            await running.request("renew")
            await running.request("renew")
            figures = json.loads(await running.end())
        nursery.cancel_scope.cancel()
    assert 4 <= figures["connections"] <= 6
    assert (figures["broken"], figures["failures"], figures["samples"]) == (0, {}, [])


async def test_a_connection_that_is_closed_without_an_answer_is_a_failure() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        port = await _serve(nursery, hang_up)
        figures = await _figures(port)
        nursery.cancel_scope.cancel()
    assert sum(figures.failures.values()) == figures.requests


async def test_a_status_other_than_200_is_a_failure_with_its_text() -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        port = await _serve(nursery, refuse)
        figures = await _figures(port)
        nursery.cancel_scope.cancel()
    assert figures.failures == {"status 502: gone": figures.requests}
    assert figures.connections == figures.requests
    assert 0 < figures.broken < figures.requests  # each of those that were to be reused


def test_the_line_is_json_with_every_count() -> None:
    figures = traffic.Figures(requests=3, connections=2)
    figures.failures["refused"] += 1
    assert json.loads(figures.line()) == {
        "requests": 3,
        "connections": 2,
        "broken": 0,
        "failed": 1,
        "failures": {"refused": 1},
        "clients": {},
    }
    figures.samples.append((1.0, 0.5))
    assert json.loads(figures.line(is_last=True)) == {**json.loads(figures.line()), "samples": [[1.0, 0.5]]}
