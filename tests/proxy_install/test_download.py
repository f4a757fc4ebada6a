"""A server that is slow, breaks off, redirects, or asks to wait."""

import io
import threading
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
import trio

from exclave.errors import Fault, HostError
from exclave.proxy_install import download
from exclave.proxy_install.download import ATTEMPTS, Origin, read_pause
from exclave.proxy_install.manifest import BadImage
from support.registry import Answer, Registry, run_registry, sha256

CONTENT = bytes(range(256)) * 4000


class Reader:
    """Reads one blob of a registry, in virtual time as far as pauses go."""

    def __init__(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registry = registry
        self.file = io.BytesIO()
        self.pauses: list[float] = []
        self.reports: list[tuple[int, int]] = []
        self.digest = registry.add_blob(CONTENT)
        monkeypatch.setattr(trio, "sleep", self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await trio.lowlevel.checkpoint()

    async def read(self, size: int | None = len(CONTENT), most: int = 10**9, timeout: float = 30.0) -> bytes:
        base = f"http://{self.registry.host}"
        async with httpx.AsyncClient(timeout=timeout) as client:
            url = f"{base}/v2/linkerd/proxy/blobs/{self.digest}"
            await Origin(client, "the registry", base).fetch(url, self.file, size, most, self._report)
        return self.file.getvalue()

    def _report(self, done: int, total: int) -> None:
        self.reports.append((done, total))

    @property
    def ranges(self) -> list[str]:
        return [span for _, span in self.registry.requests]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    with run_registry() as registry:
        yield Reader(registry, monkeypatch)


async def test_a_content_is_read_and_its_progress_reported(reader: Reader) -> None:
    assert await reader.read() == CONTENT
    assert reader.reports[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in reader.reports] == sorted(done for done, _ in reader.reports)


async def test_a_content_of_unknown_size_is_read(reader: Reader) -> None:
    assert await reader.read(size=None) == CONTENT


async def test_an_interrupted_content_continues_where_it_ended(reader: Reader) -> None:
    cuts = iter((300_000, 300_000))
    reader.registry.behave = lambda _registry, _request, answer: Answer(
        answer.status, answer.body, answer.headers, next(cuts, None)
    )
    assert await reader.read() == CONTENT
    assert reader.ranges[0] == ""
    assert len(reader.ranges) == 3
    assert all(span.startswith("bytes=") for span in reader.ranges[1:])
    # What has arrived is not read again, but for the part of a chunk that was under way.
    begins = [int(span[6:-1]) for span in reader.ranges[1:]]
    assert begins[0] >= 300_000 - download.CHUNK
    assert begins[1] > begins[0]


async def test_a_file_that_has_a_part_is_completed(reader: Reader) -> None:
    reader.file.write(CONTENT[:1000])
    assert await reader.read() == CONTENT
    assert reader.ranges == ["bytes=1000-"]


async def test_a_file_that_is_complete_is_not_read_again(reader: Reader) -> None:
    reader.file.write(CONTENT)
    assert await reader.read() == CONTENT
    assert reader.ranges == []


async def test_a_server_that_knows_no_ranges_begins_again(reader: Reader) -> None:
    reader.registry.behave = lambda registry, _request, _answer: Answer(200, registry.blobs[reader.digest])
    reader.file.write(b"x" * 1000)
    assert await reader.read() == CONTENT


async def test_another_part_than_the_wanted_one_is_not_appended(reader: Reader) -> None:
    reader.registry.behave = lambda _registry, _request, answer: Answer(
        206, answer.body, {"Content-Range": f"bytes 0-9/{len(CONTENT)}"}
    )
    reader.file.write(CONTENT[:1000])
    with pytest.raises(HostError, match="another part"):
        await reader.read()
    assert reader.file.getvalue() == CONTENT[:1000]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_asks_for_another_attempt_gets_a_few(reader: Reader, status: int) -> None:
    reader.registry.behave = lambda *_: Answer(status, headers={"Retry-After": "7"})
    with pytest.raises(HostError, match=f"status {status}, after {ATTEMPTS} attempts") as caught:
        await reader.read()
    assert caught.value.fault is Fault.DOWNLOAD
    assert reader.pauses == [7.0] * (ATTEMPTS - 1)


async def test_attempts_are_counted_anew_after_new_bytes(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CHUNK", 1000)
    reader.registry.behave = lambda _registry, _request, answer: Answer(
        answer.status, answer.body, answer.headers, 100_000 if len(answer.body) > 100_000 else None
    )
    assert await reader.read() == CONTENT
    assert len(reader.ranges) > 2 * ATTEMPTS


async def test_a_server_that_asks_to_wait_long_is_reported(reader: Reader) -> None:
    reader.registry.behave = lambda *_: Answer(429, headers={"Retry-After": "3600"})
    with pytest.raises(HostError, match="for 3600 s"):
        await reader.read()
    assert reader.pauses == []


async def test_a_stalled_server_is_asked_again(reader: Reader) -> None:
    is_over = threading.Event()

    def stall_once(registry: Registry, _request: BaseHTTPRequestHandler, answer: Answer) -> Answer:
        if len(registry.requests) == 1:
            is_over.wait(60)
        return answer

    reader.registry.behave = stall_once
    try:
        assert await reader.read(timeout=1.0) == CONTENT
    finally:
        is_over.set()
    assert len(reader.ranges) == 2


async def test_more_bytes_than_announced_are_refused(reader: Reader) -> None:
    with pytest.raises(BadImage, match="1000 bytes were expected at most"):
        await reader.read(size=1000)
    with pytest.raises(BadImage, match="2000 bytes were expected at most"):
        await reader.read(size=None, most=2000)


@pytest.mark.parametrize(
    ("status", "words"), [(401, "denies access"), (403, "denies access"), (404, "no such thing"), (418, "status 418")]
)
async def test_a_refusal_is_final(reader: Reader, status: int, words: str) -> None:
    reader.registry.behave = lambda *_: Answer(status)
    with pytest.raises(HostError, match=words):
        await reader.read()
    assert len(reader.ranges) == 1


async def test_a_redirect_is_followed_without_the_password(reader: Reader) -> None:
    with run_registry() as other:
        other.add_blob(CONTENT)
        reader.registry.behave = lambda registry, request, _answer: Answer(
            307, headers={"Location": f"http://{other.host}{request.path}"}
        )
        async with httpx.AsyncClient() as client:
            origin = Origin(client, "the registry", f"http://{reader.registry.host}")
            origin.authorization = "Bearer secret"
            url = f"http://{reader.registry.host}/v2/linkerd/proxy/blobs/{reader.digest}"
            assert sha256(await origin.read(url, {}, 10**7)) == reader.digest.partition(":")[2]
        assert reader.registry.headers[0]["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.headers[0]


@pytest.mark.parametrize(
    ("location", "words"),
    [("http://203.0.113.9/x", "without TLS"), ("ftp://203.0.113.9/x", "without TLS"), ("/again", "redirects")],
)
async def test_a_redirect_to_nowhere_good_is_refused(reader: Reader, location: str, words: str) -> None:
    reader.registry.behave = lambda *_: Answer(302, headers={"Location": location})
    with pytest.raises(HostError, match=words):
        await reader.read()
    assert len(reader.ranges) < 10


async def test_a_small_content_has_a_limit(reader: Reader) -> None:
    async with httpx.AsyncClient() as client:
        origin = Origin(client, "the registry", f"http://{reader.registry.host}")
        with pytest.raises(HostError, match="more than 1000 bytes"):
            await origin.read(f"http://{reader.registry.host}/v2/linkerd/proxy/blobs/{reader.digest}", {}, 1000)


async def test_a_server_that_is_not_there_is_named(reader: Reader) -> None:
    async with httpx.AsyncClient() as client:
        origin = Origin(client, "the registry", "http://127.0.0.1:1")
        with pytest.raises(
            HostError, match=f"the registry: it refuses connections, after {ATTEMPTS} attempts"
        ) as caught:
            await origin.read("http://127.0.0.1:1/", {}, 1000)
    assert "--file" in caught.value.hint


@pytest.mark.parametrize(
    ("header", "pause"),
    [("7", 7.0), ("0", 0.0), ("", None), ("-1", None), ("soon", None), ("٣", None), ("9" * 20, None),
     ("Wed, 21 Oct 2026 07:28:00 GMT", 61.0)],
)  # fmt: skip
def test_a_pause_is_read(header: str, pause: float | None) -> None:
    assert read_pause(header) == pause
