"""Changes reported by this kernel, in a network namespace of the test."""

import subprocess

import trio
import trio.testing

from exclave.redirect.kernel.monitor import Monitor, open_monitor
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


def test_what_was_missed_counts_as_a_change() -> None:
    monitor = Monitor("exclave")
    monitor.miss()
    assert monitor.changes.value == 1
    assert not monitor.pop_removed()
