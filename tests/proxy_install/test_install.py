"""An installation from each source, and what is left of one that fails."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from exclave.errors import ExclaveError, Fault, HostError, UsageError
from exclave.proxy_install import install as module
from exclave.proxy_install.install import Access, Source, install
from exclave.proxy_install.reference import parse_reference
from exclave.proxy_install.store import PARTIAL, InstalledProxy, Store
from support.registry import (
    PATH,
    Answer,
    Registry,
    entry,
    layer,
    layer_with,
    proxy_image,
    run_registry,
    sha256,
)

PROGRAM = b"a proxy" * 100_000
NOW = 1_767_225_600.0


async def runs(_program: Path) -> str:
    return "2.366.0"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "proxies", tmp_path / "linkerd2-proxy")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    with run_registry() as running:
        yield running


async def install_image(registry: Registry, store: Store, target: str = "linkerd/proxy:v1") -> InstalledProxy:
    return await install(Source(image=parse_reference(registry.image(target))), store, runs, lambda: NOW)


def leftovers(store: Store) -> set[str]:
    return {one.name for one in store.folder.iterdir()} - {one.name for one in store.list()}


async def test_an_image_is_installed_by_its_digest(registry: Registry, store: Store) -> None:
    digest = proxy_image(registry, PROGRAM)
    proxy = await install_image(registry, store)
    assert proxy == InstalledProxy("2.366.0", sha256(PROGRAM), f"{registry.image()}@{digest}", "2026-01-01T00:00:00Z")
    program = store.program(proxy)
    assert program.read_bytes() == PROGRAM
    assert program.stat().st_mode & 0o777 == 0o755
    assert store.used() is None
    assert leftovers(store) == set()


async def test_of_an_image_only_the_layers_down_to_the_program_are_fetched(registry: Registry, store: Store) -> None:
    above, below = layer((entry("etc/motd"), b"hello")), layer((entry(PATH), b"an older proxy"))
    registry.add_index(registry.add_image(below, layer_with(PROGRAM), above))
    proxy = await install_image(registry, store)
    assert store.program(proxy).read_bytes() == PROGRAM
    assert f"sha256:{sha256(below)}" not in {path.rpartition("/")[2] for path, _ in registry.requests}


async def test_an_interrupted_download_is_continued_by_the_next_attempt(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(1_000_000)
    proxy_image(registry, content)
    blob = f"/v2/linkerd/proxy/blobs/sha256:{sha256(layer_with(content))}"

    def cut(_registry: Registry, request: object, answer: Answer) -> Answer:
        if request.path != blob:  # type: ignore[attr-defined]
            return answer
        return Answer(answer.status, answer.body, answer.headers, 600_000)

    registry.behave = cut
    monkeypatch.setattr("exclave.proxy_install.download.ATTEMPTS", 1)
    with pytest.raises(HostError, match=r"it ended|connection broke"):
        await install_image(registry, store)
    assert store.list() == []
    assert leftovers(store) == {PARTIAL}
    registry.behave = lambda _registry, _request, answer: answer
    registry.requests.clear()
    proxy = await install_image(registry, store)
    assert store.program(proxy).read_bytes() == content
    (span,) = [span for path, span in registry.requests if path == blob]
    assert int(span.removeprefix("bytes=").removesuffix("-")) >= 600_000 - 256 * 1024
    assert leftovers(store) == set()


async def test_a_flipped_byte_is_refused_and_not_used_again(registry: Registry, store: Store) -> None:
    proxy_image(registry, PROGRAM)
    digest = f"sha256:{sha256(layer_with(PROGRAM))}"
    good = registry.blobs[digest]
    registry.blobs[digest] = bytes([*good[:100], good[100] ^ 1, *good[101:]])
    with pytest.raises(HostError, match="other bytes than its digest states") as caught:
        await install_image(registry, store)
    assert caught.value.fault is Fault.DOWNLOAD
    registry.blobs[digest] = good
    assert (await install_image(registry, store)).sha256 == sha256(PROGRAM)


BAD_IMAGES = {
    "no such file": (layer((entry("etc/motd"), b"")), "no file /usr/lib/linkerd/linkerd2-proxy"),
    "a link": (layer((entry(PATH, b"2", linkname="/etc/shadow"), b"")), "no regular file"),
    "no archive": (b"<html>", "no archive"),
}


@pytest.mark.parametrize(("content", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES)
async def test_a_bad_image_leaves_nothing(registry: Registry, store: Store, content: bytes, words: str) -> None:
    registry.add_index(registry.add_image(content))
    with pytest.raises(HostError, match=words) as caught:
        await install_image(registry, store)
    assert registry.image() in caught.value.message
    assert store.list() == []
    assert leftovers(store) <= {PARTIAL}


async def test_a_layer_of_an_unknown_type_is_named(registry: Registry, store: Store) -> None:
    registry.add_index(registry.add_image(b"x", media_type="application/vnd.oci.image.layer.v1.tar+zstd"))
    with pytest.raises(HostError, match=r"tar\+zstd cannot be read here"):
        await install_image(registry, store)


async def test_a_program_that_cannot_run_here_is_not_installed(tmp_path: Path, store: Store) -> None:
    async def fails(_program: Path) -> str | None:
        raise HostError(Fault.PROXY_UNUSABLE, "version `GLIBC_2.99' not found", "another one")

    (tmp_path / "proxy").write_bytes(PROGRAM)
    with pytest.raises(HostError, match="GLIBC"):
        await install(Source(file=tmp_path / "proxy"), store, fails, lambda: NOW)
    assert list(store.folder.iterdir()) == []


async def test_a_version_that_is_no_name_is_not_one(tmp_path: Path, store: Store) -> None:
    async def odd(_program: Path) -> str | None:
        return "1.0.0/../../etc"

    (tmp_path / "proxy").write_bytes(PROGRAM)
    assert (await install(Source(file=tmp_path / "proxy"), store, odd, lambda: NOW)).version == "unknown"


async def test_a_file_is_installed(tmp_path: Path, store: Store) -> None:
    (tmp_path / "proxy").write_bytes(PROGRAM)
    proxy = await install(Source(file=tmp_path / "proxy", sha256=sha256(PROGRAM)), store, runs, lambda: NOW)
    assert proxy.source == str(tmp_path / "proxy")
    assert (tmp_path / "proxy").read_bytes() == PROGRAM


async def test_a_url_is_installed_without_what_it_contains_of_secrets(registry: Registry, store: Store) -> None:
    blob = registry.add_blob(PROGRAM)
    url = f"http://me:word@{registry.host}/v2/linkerd/proxy/blobs/{blob}?token=word"
    proxy = await install(Source(url=url, sha256=sha256(PROGRAM)), store, runs, lambda: NOW)
    assert proxy.source == f"http://{registry.host}/v2/linkerd/proxy/blobs/{blob}"
    assert store.program(proxy).read_bytes() == PROGRAM


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source(url="https://files.example.com/x"), "a URL needs a digest"),
        (Source(url="ftp://files.example.com/x", sha256="0" * 64), "https:// was expected"),
        (Source(file=Path("/nowhere/proxy")), "/nowhere/proxy: No such file"),
        (Source(file=Path("/etc/passwd"), sha256="0" * 64), "its sha256 is"),
        (Source(file=Path("/etc/passwd"), sha256="00"), "64 hexadecimal digits"),
    ],
)
async def test_a_source_that_cannot_be_used_is_named(store: Store, source: Source, words: str) -> None:
    with pytest.raises(ExclaveError, match=words):
        await install(source, store, runs, lambda: NOW)
    assert store.list() == []


@pytest.mark.parametrize(
    ("access", "words"),
    [
        (Access(ca_file=Path("/nowhere")), "--ca-file /nowhere: No such file"),
        (Access(ca_file=Path("/etc/passwd")), "--ca-file /etc/passwd"),
        (Access(auth_file=Path("/nowhere")), "--auth-file /nowhere: No such file"),
        (Access(auth_file=Path("/etc/passwd")), "--auth-file /etc/passwd"),
    ],
)
async def test_files_of_access_that_cannot_be_read_are_named(
    registry: Registry, store: Store, access: Access, words: str
) -> None:
    proxy_image(registry, PROGRAM)
    with pytest.raises(UsageError, match=words):
        await install(Source(image=parse_reference(registry.image())), store, runs, lambda: NOW, access)


async def test_two_installations_at_once_are_not_mixed_up(registry: Registry, store: Store) -> None:
    proxy_image(registry, PROGRAM)
    outcomes: list[object] = []

    async def one() -> None:
        try:
            outcomes.append(await install_image(registry, store))
        except HostError as problem:
            outcomes.append(problem.fault)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
    assert Fault.ANOTHER_AGENT in outcomes
    assert any(isinstance(outcome, InstalledProxy) for outcome in outcomes)
    assert leftovers(store) == set()
