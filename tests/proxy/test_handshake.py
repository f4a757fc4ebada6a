"""Which certificate is served, seen over a real connection."""

import time

import pytest
import trio

from exclave.proxy.handshake import read_leaf
from support.mesh import mesh

from .admin import SERVER_NAME, Admin, admin

SVID = mesh().svid(time.time())
PATIENCE = 5.0


async def seen(served: Admin, name: str = SERVER_NAME) -> bytes | None:
    return await read_leaf("127.0.0.1", served.port, name, PATIENCE)


async def test_the_leaf_is_read_whatever_a_policy_says() -> None:
    async with admin(403) as served:
        served.take(SVID)
        assert await seen(served) == SVID.chain[0]
        newer = mesh().svid(time.time())
        served.take(newer)
        assert await seen(served) == newer.chain[0]
    assert served.asked == []


async def test_there_is_none_before_one_was_taken_nor_under_another_name() -> None:
    async with admin(200) as served:
        assert await seen(served) is None
        served.take(SVID)
        assert await seen(served, "db.shop.svc.cluster.local") is None


async def test_there_is_none_where_nobody_listens() -> None:
    async with admin(200) as served:
        pass
    assert await seen(served) is None


async def hang(_: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_one_that_hangs_is_waited_for_no_longer_than_told(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, hang, 0)
        began = trio.current_time()
        port = listeners[0].socket.getsockname()[1]
        assert await read_leaf("127.0.0.1", port, SERVER_NAME, PATIENCE) is None
        assert trio.current_time() - began == pytest.approx(PATIENCE)
        nursery.cancel_scope.cancel()
