"""Hearing of changes, from this kernel, in a network of the test's own."""

import os
import subprocess

import pytest
import trio
import trio.testing

from exclave.redirect.kernel import monitor as monitor_module
from exclave.redirect.kernel.monitor import TRY_EVERY, Monitor, open_monitor
from support.own_network import in_own_network


def nft(*commands: str) -> None:
    for command in commands:
        subprocess.run(["nft", command], check=True)


async def told(monitor: Monitor, changes: int) -> None:
    with trio.fail_after(10):
        await monitor.changes.wait_for(lambda count: count > changes)


@in_own_network()
async def test_a_change_of_the_table_is_told_with_who_made_it() -> None:
    async with open_monitor("exclave") as monitor:
        assert monitor.is_listening.value
        for command in ("add table inet exclave", "add chain inet exclave c", "flush ruleset"):
            before = monitor.changes.value
            nft(command)
            await told(monitor, before)
            await trio.testing.wait_all_tasks_blocked()
            author = monitor.take_author()
            assert author.startswith("nft, process ")
            assert int(author.rpartition(" ")[2]) > 0
            assert monitor.take_author() == ""


@in_own_network()
async def test_changes_of_other_tables_are_nobody_s_business() -> None:
    async with open_monitor("exclave") as monitor:
        nft("add table inet exclave-like", "add table ip filter", "add chain ip filter exclave", "flush ruleset")
        nft("add table inet exclave")  # the kernel tells in order: once this is heard, the others were
        await told(monitor, 0)
        assert monitor.changes.value == 1


def test_what_was_missed_counts_as_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "ROOM", 1)  # the kernel gives its least

    @in_own_network()
    async def overrun() -> None:
        async with open_monitor("exclave") as monitor:
            many = "\n".join(f"add chain ip filter chain{number}" for number in range(200))
            nft("add table ip filter", many)  # while this thread waits for it, nobody listens
            await told(monitor, 0)
            before = monitor.changes.value
            nft("add table inet exclave")  # and it goes on hearing
            await told(monitor, before)

    overrun()


def test_where_nothing_can_be_heard_that_is_said_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    group = monitor_module._GROUP
    monkeypatch.setattr(monitor_module, "_GROUP", 4000)  # which no kernel has

    @in_own_network(virtual=True)
    async def deaf() -> None:
        async with open_monitor("exclave") as monitor:
            assert not monitor.is_listening.value
            (message,) = caplog.messages
            assert message.startswith("redirect: changes by others are looked for, since the kernel tells of none: ")
            monkeypatch.setattr(monitor_module, "_GROUP", group)
            began = trio.current_time()
            await monitor.is_listening.wait_for(bool)
            assert trio.current_time() - began == TRY_EVERY
            await trio.testing.wait_all_tasks_blocked()
            assert monitor.changes.value == 1  # who knows what was missed

    deaf()


@in_own_network()
async def test_nothing_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    async with open_monitor("exclave"):
        pass
    assert os.listdir("/proc/self/fd") == before
