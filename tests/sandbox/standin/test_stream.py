"""Carrying bytes, looking at them first, and draining; the kernel's word on where a connection was going."""

import json
import sys

import pytest
import trio
import trio.testing

from exclave_sandbox.stage.namespaces import open_network
from exclave_sandbox.standin.stream import DETECTION, Drain, PeekedStream, connect, relay, send_eof, speaks_http1


def pair() -> tuple[trio.StapledStream, trio.StapledStream]:
    return trio.testing.memory_stream_pair()


async def test_peeked_bytes_are_read_again() -> None:
    near, far = pair()
    await far.send_all(b"GET / HTTP/1.1\r\n")
    stream = PeekedStream(near)
    assert (await stream.peek(4)).startswith(b"GET ")
    assert (await stream.peek(4)).startswith(b"GET ")  # looking takes nothing away
    assert await stream.receive_some(3) == b"GET"
    assert await stream.receive_exactly(6) == b" / HTT"
    await far.send_all(b"rest")
    assert await stream.receive_exactly(11) == b"P/1.1\r\nrest"


async def test_a_server_that_speaks_first_is_not_waited_for_for_ever(autojump_clock: object) -> None:
    near, _far = pair()
    began = trio.current_time()
    assert await PeekedStream(near).peek(1) == b""
    assert trio.current_time() - began == DETECTION


async def test_a_stream_that_ends_yields_its_bytes_and_then_its_end() -> None:
    near, far = pair()
    await far.send_all(b"GE")
    await far.aclose()
    stream = PeekedStream(near)
    assert await stream.peek(16) == b"GE"
    assert await stream.receive_some() == b"GE"
    assert await stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_exactly(1)


@pytest.mark.parametrize(
    ("pieces", "is_http"),
    [
        ([b"G", b"ET / HT", b"TP/1.1\r\n"], True),
        ([b"\x00raw"], False),  # at once, without a wait for more
        ([b"EHLO", b" me"], True),  # as linkerd2-proxy takes it: such ports are to be marked opaque
        ([b"PRI * HTT", b"P/2.0\r\n\r\n"], False),
        ([b"get /"], False),
    ],
)
async def test_http_is_detected_however_its_first_bytes_are_cut(pieces: list[bytes], is_http: bool) -> None:
    near, far = pair()
    stream, found = PeekedStream(near), []

    async def detect() -> None:
        found.append(await speaks_http1(stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(detect)
        for piece in pieces:
            await far.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        await far.send_eof()
    assert found == [is_http]
    assert (await stream.receive_some())[:1] == pieces[0][:1]


async def sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of one TCP connection on loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await connect(("127.0.0.1", listener.socket.getsockname()[1]))
        return near, await listener.accept()


async def test_bytes_are_relayed_both_ways_and_a_half_closed_side_still_receives() -> None:
    client, left = await sockets()
    right, server = await sockets()
    async with client, left, right, server, trio.open_nursery() as nursery:
        nursery.start_soon(relay, left, right)
        await client.send_all(b"question")
        await client.send_eof()
        assert await read_all(server) == b"question"
        await server.send_all(b"answer")
        await server.aclose()
        assert await read_all(client) == b"answer"


async def test_a_side_that_breaks_ends_both() -> None:
    client, left = await sockets()
    right, server = await sockets()
    async with client, left, right, server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, left, right)
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            server.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
            await server.aclose()  # a reset


async def test_an_end_that_cannot_be_passed_on_leaves_the_other_direction_a_while(autojump_clock: object) -> None:
    client, left = pair()
    right, _server = pair()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, PeekedStream(left), PeekedStream(right))
        await client.aclose()
    assert trio.current_time() - began == 30.0


async def test_the_end_is_passed_on_by_sockets_however_wrapped() -> None:
    near, far = await sockets()
    async with near, far:
        assert await send_eof(PeekedStream(PeekedStream(near)))
        assert await read_all(far) == b""
    assert not await send_eof(pair()[0])


async def test_draining_ends_idle_connections_and_waits_for_the_others() -> None:
    drain = Drain()
    worked = trio.Event()

    async def idle() -> None:
        with drain.connection(), drain.idle() as waiting:
            await trio.sleep_forever()
        assert waiting.cancelled_caught

    async def busy() -> None:
        with drain.connection():
            await worked.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(idle)
        nursery.start_soon(busy)
        await trio.testing.wait_all_tasks_blocked()
        drain.begin()
        await trio.testing.wait_all_tasks_blocked()
        assert drain.is_draining and not drain.empty.is_set()
        worked.set()
        await drain.empty.wait()
    with drain.idle() as late:  # who becomes idle later ends at once
        await trio.sleep_forever()
    assert late.cancelled_caught


async def test_draining_without_connections_ends_at_once() -> None:
    drain = Drain()
    drain.begin()
    assert drain.empty.is_set()


async def test_connecting_has_a_time_limit(autojump_clock: object) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1)
    async with listener:
        place = listener.socket.getsockname()
        waiting = [await connect((place[0], place[1])) for _ in range(2)]  # the kernel's queue is full now
        with pytest.raises(trio.TooSlowError):
            await connect((place[0], place[1]))
        for stream in waiting:
            await stream.aclose()


ACCEPT = """
import json, sys, trio
from exclave_sandbox.standin.stream import original_destination

async def main():
    listeners = [await trio.open_tcp_listeners(4140, host=host) for host in ("127.0.0.1", "::1")]
    print("up", flush=True)
    for (listener,) in listeners:
        stream = await listener.accept()
        print(json.dumps(original_destination(stream)), flush=True)

trio.run(main)
"""

RULES = """
table ip t { chain o { type nat hook output priority -100; ip daddr 192.0.2.1 tcp dport 80 redirect to :4140; }; }
table ip6 t { chain o { type nat hook output priority -100; ip6 daddr 2001:db8::1 tcp dport 80 redirect to :4140; }; }
"""

CALL = "import socket, sys; socket.create_connection((sys.argv[1], 80), timeout=5)"


async def test_the_kernel_reports_the_original_destination_in_both_families() -> None:
    async with open_network() as network:
        machine = await network.add("vm", "192.0.2.2/24", "2001:db8::2/64")
        await machine.must("nft", RULES)
        acceptor = await trio.lowlevel.open_process(
            machine.command(sys.executable, "-c", ACCEPT), stdout=-1, start_new_session=True
        )
        assert acceptor.stdout is not None
        text = b""
        for address in ("", "192.0.2.1", "2001:db8::1"):
            if address:
                await machine.must(sys.executable, "-c", CALL, address)
            text += await acceptor.stdout.receive_some()
        assert [json.loads(line) for line in text.splitlines()[1:]] == [["192.0.2.1", 80], ["2001:db8::1", 80]]
        await acceptor.wait()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    while piece := await stream.receive_some():
        received += piece
    return received
