"""The folder of installed proxies, and the link to the one in use."""

import os
from pathlib import Path

import pytest

from exclave.errors import Fault, HostError, UsageError
from exclave.proxy_install.store import KEPT, PROGRAM, SOURCE, InstalledProxy, Store, sha256_of
from support.registry import sha256


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "proxies", tmp_path / "lib" / "linkerd2-proxy")


def put(store: Store, version: str, content: bytes = b"", second: int = 0) -> InstalledProxy:
    """Install a proxy, without a check."""
    content = content or version.encode()
    folder = store.new_folder()
    (folder / PROGRAM).write_bytes(content)
    proxy = InstalledProxy(version, sha256(content), "a file", f"2026-01-01T00:00:{second:02}Z")
    store.add(folder, proxy)
    return proxy


def test_proxies_are_listed_newest_first(store: Store) -> None:
    assert store.list() == []
    first, second = put(store, "2.1.0"), put(store, "2.2.0", second=1)
    assert store.list() == [second, first]
    assert second.name == f"2.2.0-{sha256(b'2.2.0')[:12]}"
    assert store.program(second).read_bytes() == b"2.2.0"


def test_the_proxys_user_can_reach_the_program(store: Store) -> None:
    before = os.umask(0o077)
    try:
        proxy = put(store, "2.1.0")
    finally:
        os.umask(before)
    for folder in (store.folder, store.program(proxy).parent):
        assert folder.stat().st_mode & 0o777 == 0o755


def test_the_same_program_is_there_once_with_its_newest_source(store: Store) -> None:
    put(store, "2.1.0", second=0)
    again = put(store, "2.1.0", second=1)
    assert store.list() == [again]
    assert [one.name for one in store.folder.iterdir()] == [again.name]


def test_a_folder_that_is_not_ours_is_left_out(store: Store) -> None:
    proxy = put(store, "2.1.0")
    for name, text in (("a", "{}"), ("b", "[]"), ("c", "x"), ("d", '{"version": 1}')):
        (store.folder / name).mkdir()
        (store.folder / name / SOURCE).write_text(text)
    (store.folder / proxy.name).rename(store.folder / "renamed")
    assert store.list() == []


def test_a_proxy_is_used_by_a_link_and_another_one_replaces_it(store: Store) -> None:
    first, second = put(store, "2.1.0"), put(store, "2.2.0")
    assert store.used() is None
    store.use(first)
    assert (store.used(), store.link.read_bytes()) == (first, b"2.1.0")
    store.use(second)
    assert (store.used(), store.link.read_bytes()) == (second, b"2.2.0")
    assert [one.name for one in store.link.parent.iterdir()] == [store.link.name]


def test_a_program_that_somebody_put_there_is_not_lost(store: Store) -> None:
    proxy = put(store, "2.1.0")
    store.link.parent.mkdir()
    store.link.write_bytes(b"by hand")
    with pytest.raises(HostError, match="would be lost") as caught:
        store.use(proxy)
    assert caught.value.fault is Fault.OCCUPIED
    assert store.link.read_bytes() == b"by hand"
    # The hint: add it to the installed ones first.
    put(store, "2.0.0", b"by hand")
    store.use(proxy)
    assert store.used() == proxy


def test_a_link_that_leads_nowhere_is_replaced(store: Store) -> None:
    store.link.parent.mkdir()
    store.link.symlink_to("/nowhere")
    proxy = put(store, "2.1.0")
    store.use(proxy)
    assert store.used() == proxy


def test_a_proxy_is_found_by_name_version_or_beginning(store: Store) -> None:
    first, second = put(store, "2.1.0"), put(store, "2.2.0")
    assert store.find("2.1.0") == store.find(first.name) == store.find(first.name[:9]) == first
    for text, words in (("2.", "names 2 proxies"), ("3.0.0", "no installed proxy 3.0.0"), ("", "names 2 proxies")):
        with pytest.raises(UsageError, match=words) as caught:
            store.find(text)
        assert first.name in caught.value.hint
        assert second.name in caught.value.hint


def test_the_proxy_in_use_is_not_removed(store: Store) -> None:
    first, second = put(store, "2.1.0"), put(store, "2.2.0")
    store.use(first)
    with pytest.raises(UsageError, match="is in use"):
        store.remove(first)
    store.remove(second)
    assert store.list() == [first]


def test_a_few_proxies_stay_and_always_the_one_in_use(store: Store) -> None:
    oldest, *others = [put(store, f"2.{number}.0", second=number) for number in range(KEPT + 2)]
    store.use(oldest)
    store.new_folder()
    assert {one.name for one in store.prune()} == {one.name for one in others[:2]}
    assert set(store.list()) == {oldest, *others[2:]}
    assert {one.name for one in store.folder.iterdir()} == {one.name for one in store.list()}
    assert list(store.prune()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot write") as caught:
        Store(tmp_path / "file" / "proxies", tmp_path / "link").new_folder()
    assert "[proxy] binary and store" in caught.value.hint


def test_a_file_has_its_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == sha256(b"abc")
