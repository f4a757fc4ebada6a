"""Answers in which somebody has stored what stops a reader: in a list, in one object, in a watch."""

import gzip
import json
import logging
from urllib.parse import parse_qsl, urlsplit

import pytest
import trio
import trio.testing

from exclave.api.requests import LEASES, MEMBERS, get, list_all
from exclave.cluster import http
from exclave.cluster.answers import MOST_LOGGED, AnswerReader, AnswerTooLarge
from exclave.cluster.client import open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.watch import Listed, Upserted
from support.https_server import Asked, Reply, open_https


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time beside real sockets: it jumps only when those have been quiet for a moment."""
    return trio.testing.MockClock(autojump_threshold=0.05)


EXCESSES = {
    "9,995 levels": b'{"f:a":' * 9_995 + b"{}" + b"}" * 9_995,
    "1,000 levels": b'{"f:a":' * 1_000 + b"{}" + b"}" * 1_000,
    "bytes that are no UTF-8": b'{"f:\xff\xfe":{}}',
}
"""What a real API server stores in `managedFields`."""


def lease(name: str, fields: bytes = b"{}", version: int = 5) -> bytes:
    head = {"name": name, "namespace": "shop", "resourceVersion": str(version)}
    entry = b'{"manager":"x","fieldsV1":' + fields + b"}"
    metadata = json.dumps(head).encode()[:-1] + b',"managedFields":[' + entry + b"]}"
    return b'{"kind":"Lease","metadata":' + metadata + b',"spec":{"holderIdentity":"b.n"}}'


def lease_list(*leases: bytes) -> bytes:
    return b'{"kind":"LeaseList","metadata":{"resourceVersion":"9"},"items":[' + b",".join(leases) + b"]}"


@pytest.mark.parametrize("fields", EXCESSES.values(), ids=EXCESSES)
def test_an_excess_in_one_object_of_a_list_is_named_once(fields: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    reader = AnswerReader()
    for _ in range(3):
        found = reader.read(lease_list(lease("web-1"), lease("bad-1", fields), lease("web-2")))
    assert [one["metadata"]["name"] for one in found["items"]] == ["web-1", "bad-1", "web-2"]
    assert all(one["spec"] == {"holderIdentity": "b.n"} for one in found["items"])
    (line,) = caplog.messages
    assert line.startswith("Lease shop/bad-1 has managedFields that no program writes; they are ignored")


@pytest.mark.parametrize("fields", EXCESSES.values(), ids=EXCESSES)
def test_an_excess_in_an_event_or_an_object_is_named(fields: bytes, caplog: pytest.LogCaptureFixture) -> None:
    event = b'{"type":"MODIFIED","object":' + lease("bad-1", fields) + b"}"
    found = AnswerReader().read(event)
    assert (found["type"], found["object"]["spec"]) == ("MODIFIED", {"holderIdentity": "b.n"})
    assert AnswerReader().read(lease("bad-1", fields)) == found["object"]
    assert [line.split(" has ")[0] for line in caplog.messages] == ["Lease shop/bad-1"] * 2


def test_managed_fields_are_dropped_from_each_object(caplog: pytest.LogCaptureFixture) -> None:
    found = AnswerReader().read(lease_list(lease("web-1"), lease("web-2")))
    assert not any("managedFields" in one["metadata"] for one in found["items"])
    assert not caplog.messages


@pytest.mark.parametrize("text", [b"1", b"null", b"[]", b'{"metadata":1}', b'{"items":[1,{"metadata":[]}],"object":2}'])
def test_any_json_is_read(text: bytes) -> None:
    assert AnswerReader().read(text) == json.loads(text)


def test_the_names_that_are_remembered_are_bounded() -> None:
    reader = AnswerReader()
    for number in range(MOST_LOGGED + 10):
        reader.read(lease(f"bad-{number}", EXCESSES["bytes that are no UTF-8"]))
    assert len(reader._logged) == MOST_LOGGED


async def test_a_watch_goes_on_beside_a_poisoned_object(autojump_clock: trio.testing.MockClock) -> None:
    bad = lease("bad-1", EXCESSES["9,995 levels"])

    async def answer(asked: Asked, reply: Reply) -> None:
        if "watch=1" not in asked.target:
            await reply.send(200, lease_list(lease("web-1"), bad))
            return
        await reply.start(200)
        for found in (bad, lease("web-1", version=11)):
            await reply.piece(b'{"type":"MODIFIED","object":' + found + b"}\n")
        await trio.sleep_forever()

    async with open_https(answer) as served, open_cluster(Access((served.url,), served.ca), lambda: "t") as cluster:
        async with cluster.watch(LEASES, "shop") as events:
            listed = await events.__anext__()
            assert isinstance(listed, Listed)
            assert [one["metadata"]["name"] for one in listed.objects] == ["web-1", "bad-1"]
            for name in ("bad-1", "web-1"):
                changed = await events.__anext__()
                assert isinstance(changed, Upserted)
                assert changed.object["metadata"]["name"] == name
        assert len(served.asked) == 2, "one list and one stream, which was not opened again"
        assert await cluster.send(get(LEASES, "shop", "bad-1"))


async def test_a_page_that_is_too_large_is_read_in_smaller_ones(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 3_000)
    stored = [lease(f"web-{number}", b'{"f:' + b"x" * 2_000 + b'":{}}') for number in range(3)]

    async def answer(asked: Asked, reply: Reply) -> None:
        query = dict(parse_qsl(urlsplit(asked.target).query))
        begin, limit = int(query.get("continue", "0")), int(query["limit"])
        end = begin + limit
        more = b',"continue":"%d"' % end if end < len(stored) else b""
        page = b'{"metadata":{"resourceVersion":"9"' + more + b'},"items":[' + b",".join(stored[begin:end]) + b"]}"
        await reply.send(200, page)

    async with open_https(answer) as served, open_cluster(Access((served.url,), served.ca), lambda: "t") as cluster:
        async with cluster.watch(LEASES, None) as events:
            listed = await events.__anext__()
        assert isinstance(listed, Listed)
        assert [one["metadata"]["name"] for one in listed.objects] == ["web-0", "web-1", "web-2"]
        limits = [dict(parse_qsl(urlsplit(one.target).query)).get("limit") for one in served.asked]
        assert limits[:6] == ["500", "62", "7", "1", "1", "1"]


async def test_an_answer_that_unpacks_to_too_much_is_refused(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 1_000_000)
    bomb = gzip.compress(b'{"a":"' + b"x" * 50_000_000 + b'"}')

    async def answer(asked: Asked, reply: Reply) -> None:
        assert asked.headers["accept-encoding"] == "gzip"
        await reply.send(200, bomb, Content_Encoding="gzip")

    async with open_https(answer) as served, open_cluster(Access((served.url,), served.ca), lambda: "t") as cluster:
        with pytest.raises(AnswerTooLarge, match="the API server's answer about members has more than"):
            await cluster.send(list_all(MEMBERS, "shop"))
