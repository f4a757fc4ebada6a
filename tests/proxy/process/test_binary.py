"""The checks of the proxy's binary, user and version, with real users and programs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.errors import Fault, HostError
from exclave.proxy.process.binary import (
    SETTLING,
    BinaryWatch,
    ProxyUser,
    check_binary,
    find_proxy_user,
    identify_binary,
    read_version,
    version_problem,
)
from support.faults import silent_name_service

from ..lab import GID, UID, USER, open_folder, write_script

NOBODY = ProxyUser(USER, UID, GID)
GREETING = "INFO linkerd2_proxy: release {} (abc1234) by linkerd on 2026-08-01"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.mark.parametrize("name", [USER, str(UID)])
async def test_a_user_is_found_by_name_or_number(name: str) -> None:
    assert await find_proxy_user(name) == NOBODY


async def test_a_missing_user_is_reported_with_the_command_that_adds_it() -> None:
    with pytest.raises(HostError) as caught:
        await find_proxy_user("exclave-absent")
    assert (caught.value.fault, caught.value.message, caught.value.hint) == (
        Fault.PROXY_UNUSABLE,
        "there is no user exclave-absent for the proxy to run as",
        "useradd --system --no-create-home --shell /usr/sbin/nologin exclave-absent; or name another: [proxy] user",
    )


@pytest.mark.parametrize("name", ["root", "0"])
async def test_root_is_refused(name: str) -> None:
    with pytest.raises(HostError) as caught:
        await find_proxy_user(name)
    assert (caught.value.message, caught.value.hint) == (
        "the proxy cannot run as root: the rules recognise its own traffic by its user",
        "name another user in config.toml: [proxy] user",
    )


async def test_a_silent_name_service_is_reported(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_name_service(monkeypatch), pytest.raises(HostError) as caught:
        await find_proxy_user("exclave-proxy")
    assert (caught.value.fault, caught.value.message, caught.value.hint) == (
        Fault.PROXY_UNUSABLE,
        "the name service did not answer within 10 s who exclave-proxy is, the proxy's user",
        "see why: getent passwd exclave-proxy; or name a user of this machine's own: [proxy] user",
    )


async def refused(binary: Path) -> tuple[str, str]:
    with pytest.raises(HostError) as caught:
        await check_binary(binary, NOBODY)
    assert caught.value.fault is Fault.PROXY_UNUSABLE
    return caught.value.message, caught.value.hint


async def test_a_proxy_prints_its_version_in_an_empty_environment(folder: Path) -> None:
    proxy = write_script(
        folder / "proxy",
        f"echo '{GREETING.format('2.331.0')}'",
        f"id -u >{folder}/output; env | grep -c LINKERD2_PROXY_ >>{folder}/output; exit 64",
    )
    output = folder / "output"
    output.touch()
    os.chown(output, UID, GID)
    assert await check_binary(proxy, NOBODY) == "2.331.0"
    assert output.read_text().split() == [str(UID), "1"]  # the one is its log filter


async def test_a_proxy_without_a_version_is_accepted(folder: Path) -> None:
    assert await check_binary(write_script(folder / "proxy", "exit 64"), NOBODY) is None


@pytest.mark.parametrize("version", ["2.329.0", "2.330.0"])
async def test_a_version_that_cannot_work_is_refused(folder: Path, version: str) -> None:
    proxy = write_script(folder / "proxy", f"echo '{GREETING.format(version)}'; exit 64")
    assert await refused(proxy) == (
        f"the proxy at {proxy} is v{version}, which asks the Workload API for a service name that no server has, "
        "and so never gets a certificate",
        "use v2.331.0 or later, or v2.328.0 or earlier",
    )


async def test_a_missing_file_is_refused(folder: Path) -> None:
    assert await refused(folder / "proxy") == (
        f"there is no proxy at {folder}/proxy",
        "install it: exclave proxy install; or set its path in config.toml: [proxy] binary",
    )


UNUSABLE = {
    "only root may read it": (0o700, b"#!/bin/sh\n", "status 2: /bin/sh: 0: cannot open {}: Permission denied"),
    "it is for another kind of machine": (0o755, b"\x7fELF\n", "status 127: {}: 1: \x7fELF: not found"),
    "its interpreter is missing": (
        0o755,
        b"#!/usr/bin/absent\n",
        "status 127: setpriv: failed to execute {}: No such file or directory",
    ),
    "it is another program": (0o755, b"#!/bin/sh\necho proxy\n", "status 0: it printed nothing"),
}


@pytest.mark.parametrize(("mode", "content", "end"), UNUSABLE.values(), ids=UNUSABLE)
async def test_a_file_that_does_not_run_as_a_proxy_is_refused(
    folder: Path, mode: int, content: bytes, end: str
) -> None:
    proxy = folder / "proxy"
    proxy.write_bytes(content)
    proxy.chmod(mode)
    assert await refused(proxy) == (
        f"{proxy}, run by {USER} without a configuration, ended with {end.format(proxy)}",
        "linkerd2-proxy was expected there, built for this kind of machine; that user must be able to read and "
        "execute it (chmod 0755), and to pass the folders above it",
    )


async def test_a_program_that_does_not_end_is_refused(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    proxy = write_script(folder / "proxy", "exec sleep 600")
    assert await refused(proxy) == (
        f"{proxy} was run without a configuration and did not end within 30 s",
        "linkerd2-proxy was expected there: see config.toml, [proxy] binary",
    )


async def test_a_missing_setpriv_is_reported_with_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exclave.proxy.process.binary.SEARCH_PATH", str(folder))
    assert await refused(write_script(folder / "proxy", "exit 64")) == (
        "the program setpriv is not installed",
        "install it: apt install util-linux",
    )


SERVICE = "asks the Workload API for a service name that no server has, and so never gets a certificate"

GREETINGS = {
    "a release": ("[     0.001s]  INFO ThreadId(01) linkerd2_proxy: release 2.331.0 (abc1234) by linkerd", "2.331.0"),
    "a tag with a v": ("INFO linkerd2_proxy: release v2.329.0 (abc1234) by linkerd on 2026-01-01", "2.329.0"),
    "a build of one's own": ("INFO linkerd2_proxy: debug 0.0.0-dev.1 (1234567) by me", "0.0.0-dev.1"),
    "lines around it": (
        "warning\nINFO linkerd2_proxy: release 2.331.0 (a) by b\nInvalid configuration",
        "2.331.0",
    ),
    "another program": ("Usage: proxy [options]", None),
    "silence": ("", None),
}


@pytest.mark.parametrize(("greeting", "version"), GREETINGS.values(), ids=GREETINGS)
def test_the_version_in_a_greeting(greeting: str, version: str | None) -> None:
    assert read_version(greeting) == version


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("2.328.0", None),
        ("2.329.0", SERVICE),
        ("2.330.0", SERVICE),
        ("2.331.0", None),
        ("0.0.0-dev.1", None),
        (None, None),
    ],
)
def test_versions_that_cannot_work_are_refused_with_the_reason(version: str | None, reason: str | None) -> None:
    assert version_problem(version) == reason


async def test_a_binary_is_identified_by_its_file_and_its_content(tmp_path: Path) -> None:
    path = tmp_path / "proxy"
    path.write_bytes(b"one")
    first = await identify_binary(path)
    assert first is not None
    assert first.stamp.split(":")[1:3] == [str(path.stat().st_ino), "3"]
    shutil.copy(path, tmp_path / "again")
    os.replace(tmp_path / "again", path)  # as a package that is installed again
    again = await identify_binary(path, first)
    assert again is not None
    assert (again.digest, again.stamp != first.stamp) == (first.digest, True)


async def test_the_content_of_an_unchanged_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "proxy"
    path.write_bytes(b"one")
    first = await identify_binary(path)
    assert first is not None
    os.truncate(path, 0)
    path.write_bytes(b"two")
    os.utime(path, ns=(0, int(first.stamp.split(":")[3])))  # only the content shows the difference
    assert await identify_binary(path, None, first) == first


async def test_a_missing_program_is_none(tmp_path: Path) -> None:
    assert await identify_binary(tmp_path / "proxy") is None


async def test_another_file_counts_once_it_stays_as_it_is(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "proxy"
    path.write_bytes(b"one")
    running, watch = await identify_binary(path), BinaryWatch(path)
    assert await watch.poll(running) == running
    for size in (1, 2, 3):  # it is being written
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(size, size))
        assert await watch.poll(running) == running
        await trio.sleep(SETTLING / 2)
    await trio.sleep(SETTLING / 2)
    assert await watch.poll(running) == await identify_binary(path) != running


async def test_a_program_that_was_removed_is_no_other_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "proxy"
    path.write_bytes(b"one")
    running, watch = await identify_binary(path), BinaryWatch(path)
    path.unlink()
    for _ in range(3):
        assert await watch.poll(running) == running
        await trio.sleep(SETTLING)
