"""Messages of this kernel about links, in a network namespace of the test."""

import os
import subprocess

import pytest
import trio
import trio.testing

from exclave.kit.netlink import subscription
from exclave.kit.netlink.messages import ROUTE, split_datagram
from exclave.kit.netlink.subscription import RETRY_INTERVAL, open_subscription
from exclave.kit.tasks.latest import Latest
from support.network_namespace import in_network_namespace

LINKS = 1  # RTNLGRP_LINK
NEW_LINK = 16  # RTM_NEWLINK


class Receiver:
    """Counts messages about new and changed links, and losses."""

    def __init__(self) -> None:
        self.links = Latest(0)
        self.losses = Latest(0)

    def receive(self, datagram: bytes) -> None:
        self.links.set(self.links.value + sum(message.kind == NEW_LINK for message in split_datagram(datagram)))

    def miss(self) -> None:
        self.losses.set(self.losses.value + 1)


def add_links(*names: str) -> None:
    lines = "".join(f"link add {name} type bridge\n" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)


async def wait_for_link(receiver: Receiver) -> None:
    before = receiver.links.value
    add_links(f"after{before}")
    with trio.fail_after(10):
        await receiver.links.wait_for(lambda count: count > before)


@in_network_namespace()
async def test_each_message_is_received_and_nothing_is_left_open() -> None:
    before, receiver = os.listdir("/proc/self/fd"), Receiver()
    async with open_subscription("test", ROUTE, (LINKS,), receiver.receive, receiver.miss) as is_listening:
        assert is_listening.value
        add_links("one", "two")
        with trio.fail_after(10):
            await receiver.links.wait_for(lambda count: count >= 2)
        assert receiver.losses.value == 0
    assert not is_listening.value
    assert os.listdir("/proc/self/fd") == before


def test_missed_messages_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "BUFFER", 1)  # the kernel grants its minimum

    @in_network_namespace()
    async def overrun() -> None:
        receiver = Receiver()
        async with open_subscription("test", ROUTE, (LINKS,), receiver.receive, receiver.miss):
            add_links(*(f"link{number}" for number in range(50)))  # while this thread waits, nothing is received
            with trio.fail_after(10):
                await receiver.losses.wait_for(bool)
            await wait_for_link(receiver)  # later messages are still received

    overrun()


def test_a_refused_subscription_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    option = subscription._ADD_MEMBERSHIP
    monkeypatch.setattr(subscription, "_ADD_MEMBERSHIP", 4000)  # which no kernel has

    @in_network_namespace(virtual=True)
    async def deaf() -> None:
        receiver = Receiver()
        async with open_subscription("test", ROUTE, (LINKS,), receiver.receive, receiver.miss) as is_listening:
            assert not is_listening.value
            (message,) = caplog.messages
            assert message.startswith("redirect: changes by others are polled for, since the kernel reports none: ")
            monkeypatch.setattr(subscription, "_ADD_MEMBERSHIP", option)
            began = trio.current_time()
            await is_listening.wait_for(bool)
            assert trio.current_time() - began == RETRY_INTERVAL
            await trio.testing.wait_all_tasks_blocked()
            assert receiver.losses.value == 1

    deaf()
