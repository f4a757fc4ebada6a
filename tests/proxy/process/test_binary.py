"""What keeps a proxy from being run, in the words that people are shown; with real users and programs."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio.testing

from exclave.errors import Fault, HostError
from exclave.proxy.process.binary import ProxyUser, check_binary, find_user

from ..lab import GID, UID, USER, open_folder, write_script

NOBODY = ProxyUser(USER, UID, GID)
GREETING = "INFO linkerd2_proxy: release {} (abc1234) by linkerd on 2026-08-01"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.mark.parametrize("name", [USER, str(UID)])
def test_a_user_is_found_by_name_or_number(name: str) -> None:
    assert find_user(name) == NOBODY


def test_a_user_that_is_not_there_can_be_made() -> None:
    with pytest.raises(HostError) as caught:
        find_user("exclave-absent")
    assert (caught.value.fault, caught.value.message, caught.value.hint) == (
        Fault.PROXY_UNUSABLE,
        "there is no user exclave-absent for the proxy to run as",
        "useradd --system --no-create-home --shell /usr/sbin/nologin exclave-absent; or name another: [proxy] user",
    )


@pytest.mark.parametrize("name", ["root", "0"])
def test_root_is_no_user_for_a_proxy(name: str) -> None:
    assert pwd.getpwuid(0).pw_name == "root"
    with pytest.raises(HostError) as caught:
        find_user(name)
    assert (caught.value.message, caught.value.hint) == (
        "the proxy cannot run as root: its own traffic is told from others' by its user",
        "name a user of its own in config.toml: [proxy] user",
    )


async def refusal(binary: Path) -> tuple[str, str]:
    with pytest.raises(HostError) as caught:
        await check_binary(binary, NOBODY)
    assert caught.value.fault is Fault.PROXY_UNUSABLE
    return caught.value.message, caught.value.hint


async def test_a_proxy_says_its_version_and_sees_an_empty_environment(folder: Path) -> None:
    proxy = write_script(
        folder / "proxy",
        f"echo '{GREETING.format('2.331.0')}'",
        f"id -u >{folder}/seen; env | grep -c LINKERD2_PROXY_ >>{folder}/seen; exit 64",
    )
    seen = folder / "seen"
    seen.touch()
    os.chown(seen, UID, GID)
    assert await check_binary(proxy, NOBODY) == "2.331.0"
    assert seen.read_text().split() == [str(UID), "1"]  # the one is its log filter


async def test_one_that_does_not_say_is_taken_at_its_own_risk(folder: Path) -> None:
    assert await check_binary(write_script(folder / "proxy", "exit 64"), NOBODY) is None


@pytest.mark.parametrize("version", ["2.329.0", "2.330.0"])
async def test_a_version_that_cannot_work_is_refused(folder: Path, version: str) -> None:
    proxy = write_script(folder / "proxy", f"echo '{GREETING.format(version)}'; exit 64")
    assert await refusal(proxy) == (
        f"the proxy at {proxy} is v{version}, which asks the Workload API for a service name that no server knows, "
        "and so never gets a certificate",
        "use v2.331.0 or later, or v2.328.0 or earlier",
    )


async def test_a_file_that_is_not_there_is_refused(folder: Path) -> None:
    assert await refusal(folder / "proxy") == (
        f"there is no proxy at {folder}/proxy",
        "install linkerd2-proxy there, or say where it is in config.toml: [proxy] binary",
    )


UNUSABLE = {
    "only root may read it": (0o700, b"#!/bin/sh\n", "status 2: /bin/sh: 0: cannot open {}: Permission denied"),
    "it is for another kind of machine": (0o755, b"\x7fELF\n", "status 127: {}: 1: \x7fELF: not found"),
    "its interpreter is missing": (
        0o755,
        b"#!/usr/bin/absent\n",
        "status 127: setpriv: failed to execute {}: No such file or directory",
    ),
    "it is another program": (0o755, b"#!/bin/sh\necho proxy\n", "status 0: it said nothing"),
}


@pytest.mark.parametrize(("mode", "content", "end"), UNUSABLE.values(), ids=UNUSABLE)
async def test_a_file_that_the_user_cannot_run_as_a_proxy_is_refused(
    folder: Path, mode: int, content: bytes, end: str
) -> None:
    proxy = folder / "proxy"
    proxy.write_bytes(content)
    proxy.chmod(mode)
    assert await refusal(proxy) == (
        f"{proxy}, run by {USER} without a configuration, ended with {end.format(proxy)}",
        "linkerd2-proxy was expected there, built for this kind of machine; that user must be able to read and "
        "execute it (chmod 0755), and to pass the folders above it",
    )


async def test_a_program_that_does_not_end_is_no_proxy(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    proxy = write_script(folder / "proxy", "exec sleep 600")
    assert await refusal(proxy) == (
        f"{proxy} was run without a configuration and did not end within 10 s",
        "linkerd2-proxy was expected there: see config.toml, [proxy] binary",
    )


async def test_a_machine_without_setpriv_is_told_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exclave.proxy.process.binary.SEARCH_PATH", str(folder))
    assert await refusal(write_script(folder / "proxy", "exit 64")) == (
        "the program setpriv is not installed",
        "install it: apt install util-linux",
    )
