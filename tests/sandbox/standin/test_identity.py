"""Where the stand-in's certificate comes from: our Workload API, read by code of its own, and a folder."""

import os
import time
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from exclave.identity.svid import Svid
from exclave.kit.tasks.latest import Latest
from exclave.workload_api.connection import X509Svid, encode_response, frame_message
from exclave.workload_api.server import open_workload_api
from exclave_sandbox.standin.identity import (
    fetch_svids,
    follow_folder,
    follow_workload_api,
    read_svids,
    split_certificates,
    split_messages,
)
from exclave_sandbox.standin.tls import ProxyCertificate, Tls
from support.mesh import mesh

ME = frozenset({os.getuid()})
FIRST, SECOND = (mesh().svid(time.time()) for _ in range(2))
ID = FIRST.spiffe_id


def pair_of(svid: Svid) -> ProxyCertificate:
    return ProxyCertificate(svid.chain, svid.key)


class Watched(Tls):
    """A proxy's TLS; `count` is how many certificates it has loaded."""

    def __init__(self) -> None:
        super().__init__(mesh().anchor.pem)
        self.count = Latest(0)

    def load(self, pair: ProxyCertificate) -> None:
        super().load(pair)
        self.count.set(self.refreshes)


async def test_the_workload_api_brings_a_certificate_at_once_and_each_new_one(tmp_path: Path) -> None:
    latest = Latest[Svid | None](FIRST)
    async with open_workload_api(tmp_path / "w.sock", latest, lambda: (), ME) as api:
        async with aclosing(fetch_svids(str(api.path))) as messages:
            assert await anext(messages) == {ID: pair_of(FIRST)}
            latest.set(SECOND)
            assert await anext(messages) == {ID: pair_of(SECOND)}


async def test_the_certificate_is_used_until_the_workload_api_is_back(tmp_path: Path) -> None:
    tls, path = Watched(), tmp_path / "w.sock"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_workload_api, str(path), ID, tls, trio.Event())
        async with open_workload_api(path, Latest[Svid | None](FIRST), lambda: (), ME):
            await tls.count.wait_for(lambda count: count == 1)
        assert tls.expires is not None
        async with open_workload_api(path, Latest[Svid | None](SECOND), lambda: (), ME):
            await tls.count.wait_for(lambda count: count == 2)
        nursery.cancel_scope.cancel()


async def test_a_certificate_of_another_identity_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tls, other = Watched(), "spiffe://cluster.local/ns/shop/sa/db"
    async with open_workload_api(tmp_path / "w.sock", Latest[Svid | None](FIRST), lambda: (), ME) as api:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_workload_api, str(api.path), other, tls, trio.Event())
            for streams in (1, 0, 1):  # it hangs up, and comes again
                await api.streams.wait_for(lambda open_now, streams=streams: open_now == streams)
            nursery.cancel_scope.cancel()
    assert f"no matching SVID found for {other}" in caplog.text
    assert tls.refreshes == 0


async def test_a_refused_caller_gets_the_reason(tmp_path: Path) -> None:
    nobody = frozenset({65534})
    async with open_workload_api(tmp_path / "w.sock", Latest[Svid | None](FIRST), lambda: (), nobody) as api:
        with pytest.raises(EOFError, match="status 7: "):
            async with aclosing(fetch_svids(str(api.path))) as messages:
                await anext(messages)


async def test_a_folder_is_read_at_once_and_again_when_it_changes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    def put() -> None:
        leaf = mesh().leaf()
        (tmp_path / "chain.pem").write_text(mesh().chain(leaf))
        (tmp_path / "key.pem").write_text(leaf.key_pem)

    tls = Watched()
    put()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_folder, tmp_path, tls, trio.Event())
        await tls.count.wait_for(bool)
        await trio.sleep(10)
        assert tls.refreshes == 1
        put()
        await tls.count.wait_for(lambda count: count == 2)
        nursery.cancel_scope.cancel()


async def test_a_folder_that_is_half_written_is_read_again_later(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    leaf, other = mesh().leaf(), mesh().leaf()
    (tmp_path / "chain.pem").write_text(mesh().chain(leaf))
    (tmp_path / "key.pem").write_text("")
    tls = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_folder, tmp_path, tls, trio.Event())
        await trio.sleep(5)
        assert tls.refreshes == 0
        (tmp_path / "key.pem").write_text(other.key_pem)  # another's
        await trio.sleep(5)
        assert tls.refreshes == 0
        (tmp_path / "key.pem").write_text(leaf.key_pem)
        await tls.count.wait_for(bool)
        nursery.cancel_scope.cancel()


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(0, 300))
def test_messages_come_out_whole_however_they_are_cut(messages: list[bytes], cut: int) -> None:
    sent = b"".join(map(frame_message, messages))
    *early, pending = split_messages(sent[:cut])
    *late, rest = split_messages(pending + sent[cut:])
    assert ([*early, *late], rest) == (messages, b"")


def test_a_response_is_read_by_spiffe_id() -> None:
    message = encode_response(
        (
            X509Svid(ID, b"".join(FIRST.chain), FIRST.key, b"bundle"),
            X509Svid("spiffe://other", b"".join(SECOND.chain), SECOND.key, b""),
        )
    )
    assert read_svids(message) == {ID: pair_of(FIRST), "spiffe://other": pair_of(SECOND)}
    assert read_svids(b"") == {}


def test_an_svid_without_chain_and_key_is_refused() -> None:
    with pytest.raises(ValueError, match="an SVID with chain and key was expected"):
        read_svids(b"\n\x00")


@pytest.mark.parametrize("size", [1, 3, 40, 300])
def test_a_response_that_is_cut_off_is_refused(size: int) -> None:
    message = encode_response((X509Svid(ID, b"".join(FIRST.chain), FIRST.key, b"bundle"),))
    with pytest.raises(ValueError, match="a message is cut off"):
        read_svids(message[:size])


@pytest.mark.parametrize("found", [b"\x31\x82\x00\x01x", b"\x30\x03abc", b"\x30\x82", FIRST.chain[0][:-1]])
def test_a_malformed_certificate_is_refused(found: bytes) -> None:
    with pytest.raises(ValueError, match="a certificate in DER was expected"):
        list(split_certificates(found))
