"""The API servers' addresses while name servers answer, fall silent, and change their minds. In virtual time."""

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.cluster import server_addresses
from exclave.cluster.endpoint import ServerAddress
from exclave.cluster.server_addresses import (
    AFTER_FAILURE,
    EVERY,
    FILE,
    FIRST_ANSWER,
    LOOKUP,
    RETAINED,
    load_answers,
    open_server_addresses,
    resolve_all,
    store_answers,
)
from exclave.errors import Fault, HostError
from support.faults import NameServers

NAMED, LITERAL = "https://api.test:6443", "https://10.0.0.2"
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
FIRST, SECOND = ServerAddress("10.0.0.7", 6443), ServerAddress("10.0.0.8", 6443)


async def test_an_address_in_a_url_needs_no_lookup(tmp_path: Path) -> None:
    names = NameServers()
    async with open_server_addresses([LITERAL, "https://[fd00::1]:6443"], tmp_path) as latest:
        assert latest.value == (ServerAddress("10.0.0.2", 443), ServerAddress("fd00::1", 6443))
        await trio.testing.wait_all_tasks_blocked()
    assert names.asked == []
    assert list(tmp_path.iterdir()) == []


async def test_a_name_is_resolved_while_opening_and_the_answer_is_stored(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    NameServers(api_test=("fd00::7", "fe80::7%eth0", "10.0.0.7"))
    async with open_server_addresses([NAMED, LITERAL], tmp_path) as latest:
        assert trio.current_time() == 0
        expected = (FIRST, ServerAddress("fd00::7", 6443), ServerAddress("fe80::7", 6443))
        assert latest.value == (*expected, ServerAddress("10.0.0.2", 443))
    assert json.loads((tmp_path / FILE).read_text()) == {NAMED: ["10.0.0.7", "fd00::7", "fe80::7"]}
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


async def test_a_stored_answer_is_published_at_once_while_name_servers_are_silent(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    NameServers(api_test=None)
    store_answers(tmp_path, {NAMED: {"10.0.0.7"}})
    async with open_server_addresses([NAMED], tmp_path) as latest:
        assert trio.current_time() == 0
        assert latest.value == (FIRST,)
        await trio.sleep(10 * RETAINED)
        assert latest.value == (FIRST,)


async def test_without_any_answer_opening_waits_no_longer_than_a_moment_and_the_answer_is_published_later(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    names = NameServers(api_test=None)
    async with open_server_addresses([NAMED, LITERAL], tmp_path) as latest:
        assert trio.current_time() == FIRST_ANSWER
        assert latest.value == (ServerAddress("10.0.0.2", 443),)
        names.answers["api.test"] = ("10.0.0.7",)
        await latest.wait_for(lambda found: FIRST in found)
        assert trio.current_time() == LOOKUP + AFTER_FAILURE
    assert load_answers(tmp_path, [NAMED]) == {NAMED: {"10.0.0.7"}}


async def test_another_answer_is_published_and_the_former_address_stays_for_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    names = NameServers(api_test=("10.0.0.7",))
    async with open_server_addresses([NAMED], tmp_path) as latest:
        await trio.sleep(1)
        names.answers["api.test"] = ("10.0.0.8",)
        assert await latest.wait_change() == (FIRST, SECOND)
        assert trio.current_time() == EVERY
        assert load_answers(tmp_path, [NAMED]) == {NAMED: {"10.0.0.7", "10.0.0.8"}}
        assert await latest.wait_change() == (SECOND,)
        assert RETAINED < trio.current_time() <= RETAINED + EVERY
        assert load_answers(tmp_path, [NAMED]) == {NAMED: {"10.0.0.8"}}


async def test_alternating_answers_change_nothing_and_are_not_written_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = NameServers(api_test=("10.0.0.7",))
    async with open_server_addresses([NAMED], tmp_path) as latest:
        names.answers["api.test"] = ("10.0.0.8",)
        await latest.wait_change()
        written = (tmp_path / FILE).stat().st_ino
        for turn in range(100):
            names.answers["api.test"] = ("10.0.0.7",) if turn % 2 else ("10.0.0.8",)
            await trio.sleep(EVERY)
            assert latest.value == (FIRST, SECOND)
        assert (tmp_path / FILE).stat().st_ino == written


FAILURES: dict[str, tuple[Any, str]] = {
    "the name is gone": (NO_SUCH_NAME, "there is no such name"),
    "no name server": (
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        "Temporary failure in name resolution",
    ),
    "no network": (OSError(errno.ENETDOWN, "Network is down"), "Network is down"),
    "silence": (None, "no answer within 30 s"),
}


@pytest.mark.parametrize(("failure", "reason"), FAILURES.values(), ids=FAILURES)
@pytest.mark.slow
async def test_a_lookup_that_fails_changes_no_address_and_is_logged_once(
    failure: Any,
    reason: str,
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "exclave.cluster.server_addresses")
    names = NameServers(api_test=("10.0.0.7", "10.0.0.8"))
    async with open_server_addresses([NAMED], tmp_path) as latest:
        names.answers["api.test"] = failure
        await trio.sleep(10 * RETAINED)
        assert latest.value == (FIRST, SECOND)
        names.answers["api.test"] = ("10.0.0.8",)
        await latest.wait_for(lambda found: found == (SECOND,))
    assert load_answers(tmp_path, [NAMED]) == {NAMED: {"10.0.0.8"}}
    assert caplog.messages == [
        f"the API server's name api.test is not resolved: {reason}; its last addresses are used: 10.0.0.7, 10.0.0.8",
        "the API server's name api.test is resolved again",
    ]


async def test_a_name_that_never_was_resolved_is_logged(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    NameServers(api_test=NO_SUCH_NAME)
    async with open_server_addresses([NAMED], tmp_path):
        await trio.sleep(60)
    assert caplog.messages == [
        "the API server's name api.test is not resolved: there is no such name; no address of it is known"
    ]


async def test_a_silent_name_delays_no_other(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    NameServers(api_test=None, other_test=("10.0.0.8",))
    async with open_server_addresses([NAMED, "https://other.test:6443"], tmp_path) as latest:
        assert latest.value == (SECOND,)
    assert await resolve_all([NAMED, "https://other.test", LITERAL], 5.0) == {
        "https://other.test": {"10.0.0.8"},
        LITERAL: {"10.0.0.2"},
    }


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"https://api.test:6443": 7}', '{"https://api.test:6443": ["10.0.0.300"]}', "\xff"]
)
async def test_a_file_that_cannot_be_used_counts_as_none(
    content: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    NameServers(api_test=("10.0.0.7",))
    (tmp_path / FILE).write_bytes(content.encode("latin-1"))
    assert load_answers(tmp_path, [NAMED]) == {}
    async with open_server_addresses([NAMED], tmp_path) as latest:
        assert latest.value == (FIRST,)
    assert load_answers(tmp_path, [NAMED]) == {NAMED: {"10.0.0.7"}}


async def test_stored_answers_for_other_servers_are_not_used(tmp_path: Path) -> None:
    store_answers(tmp_path, {NAMED: {"10.0.0.7"}})
    async with open_server_addresses([LITERAL], tmp_path) as latest:
        assert latest.value == (ServerAddress("10.0.0.2", 443),)


async def test_a_write_error_is_logged_and_the_answer_is_published(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, *_: Any) -> None:
        raise HostError(Fault.DISK, f"cannot write {path}: {os.strerror(errno.ENOSPC)}", "free some space")

    monkeypatch.setattr(server_addresses, "write_atomic", refuse)
    NameServers(api_test=("10.0.0.7",))
    async with open_server_addresses([NAMED], tmp_path) as latest:
        await trio.sleep(60)
        assert latest.value == (FIRST,)
    assert caplog.messages == [f"cannot write {tmp_path}/{FILE}: No space left on device"]
