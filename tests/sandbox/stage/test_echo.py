import json
from functools import partial

import trio

from exclave_sandbox.stage import echo


async def _exchange(*requests: bytes) -> bytes:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, partial(echo.answer, name="db"), 0, host="127.0.0.1"))
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
        async with stream:
            for request in requests:
                await stream.send_all(request)
            received = b""
            async for chunk in stream:
                received += chunk
        nursery.cancel_scope.cancel()
    return received


async def test_it_answers_with_its_name_the_peer_and_the_clients_identity() -> None:
    answer = await _exchange(
        b"GET / HTTP/1.1\r\nHost: x\r\nl5d-client-id: web.shop.serviceaccount\r\nConnection: close\r\n\r\n"
    )
    body = json.loads(answer.split(b"\r\n\r\n")[1])
    assert body == {"server": "db", "peer": "127.0.0.1", "client_id": "web.shop.serviceaccount"}


async def test_a_connection_is_reused_without_the_identity_of_the_last_request() -> None:
    answer = await _exchange(
        b"GET / HTTP/1.1\r\nHost: x\r\nl5d-client-id: web\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.count(b'"client_id": null') == 1
