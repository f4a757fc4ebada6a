"""Changes reported by this kernel, in a network namespace of the test."""

import os
import subprocess

import pytest
import trio
import trio.testing

from exclave.redirect.kernel import monitor as monitor_module
from exclave.redirect.kernel.monitor import RETRY_INTERVAL, Monitor, open_monitor
from support.network_namespace import in_network_namespace


def nft(*commands: str) -> None:
    for command in commands:
        subprocess.run(["nft", command], check=True)


async def wait_for_change(monitor: Monitor, changes: int) -> None:
    with trio.fail_after(10):
        await monitor.changes.wait_for(lambda count: count > changes)


@in_network_namespace()
async def test_a_change_of_the_table_is_counted_with_its_author() -> None:
    async with open_monitor("exclave") as monitor:
        assert monitor.is_listening.value
        for command in ("add table inet exclave", "add chain inet exclave c", "flush ruleset"):
            before = monitor.changes.value
            nft(command)
            await wait_for_change(monitor, before)
            await trio.testing.wait_all_tasks_blocked()
            author = monitor.pop_author()
            assert author.startswith("nft, process ")
            assert int(author.rpartition(" ")[2]) > 0
            assert monitor.pop_author() == ""


@in_network_namespace()
async def test_changes_of_other_tables_are_not_counted() -> None:
    async with open_monitor("exclave") as monitor:
        nft("add table inet exclave-like", "add table ip filter", "add chain ip filter exclave", "flush ruleset")
        nft("add table inet exclave")  # the kernel reports in order: the others came before this one
        await wait_for_change(monitor, 0)
        assert monitor.changes.value == 1


def test_what_was_missed_counts_as_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "BUFFER", 1)  # the kernel grants its minimum

    @in_network_namespace()
    async def overrun() -> None:
        async with open_monitor("exclave") as monitor:
            many = "\n".join(f"add chain ip filter chain{number}" for number in range(200))
            nft("add table ip filter", many)  # while this thread waits for it, nothing is received
            await wait_for_change(monitor, 0)
            before = monitor.changes.value
            nft("add table inet exclave")  # and later changes are still counted
            await wait_for_change(monitor, before)

    overrun()


def test_a_refused_subscription_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    group = monitor_module._GROUP
    monkeypatch.setattr(monitor_module, "_GROUP", 4000)  # which no kernel has

    @in_network_namespace(virtual=True)
    async def deaf() -> None:
        async with open_monitor("exclave") as monitor:
            assert not monitor.is_listening.value
            (message,) = caplog.messages
            assert message.startswith("redirect: changes by others are polled for, since the kernel reports none: ")
            monkeypatch.setattr(monitor_module, "_GROUP", group)
            began = trio.current_time()
            await monitor.is_listening.wait_for(bool)
            assert trio.current_time() - began == RETRY_INTERVAL
            await trio.testing.wait_all_tasks_blocked()
            assert monitor.changes.value == 1  # messages may have been missed

    deaf()


@in_network_namespace()
async def test_nothing_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    async with open_monitor("exclave"):
        pass
    assert os.listdir("/proc/self/fd") == before
