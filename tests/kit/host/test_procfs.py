"""What the kernel reports."""

import os
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import netifaces
import psutil
import pytest

from exclave.kit.host.procfs import (
    addresses_by_interface,
    describe_process,
    is_ipv6_disabled,
    local_addresses,
    open_pidfd,
    read_boot_id,
    read_tcp_tables,
    view_process,
)
from exclave.kit.host.sockets import read_sockets
from support.network_namespace import in_network_namespace


def test_the_kernels_view_of_this_very_process() -> None:
    view = view_process(os.getpid())
    assert view is not None
    assert view.executable == os.path.realpath(sys.executable)
    assert view.start_ticks > 0
    assert view_process(2**22 - 1) is None


def test_a_process_is_described_by_its_name_and_number() -> None:
    started = subprocess.Popen(["/usr/bin/sleep", "600"])
    assert describe_process(started.pid) == f"sleep, process {started.pid}"
    started.kill()
    started.wait()
    assert describe_process(started.pid) == ""


@pytest.mark.parametrize("which", ["all", "default", "lo"])
def test_ipv6_is_disabled_for_new_links(which: str) -> None:
    @in_network_namespace()
    async def disabled() -> None:
        assert not is_ipv6_disabled()
        Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")
        assert is_ipv6_disabled() is (which != "lo")

    disabled()


def test_a_process_is_held_until_it_is_let_go() -> None:
    started = subprocess.Popen(["/usr/bin/sleep", "600"])
    pidfd = open_pidfd(started.pid)
    assert pidfd is not None
    os.close(pidfd)
    started.kill()
    started.wait()
    assert open_pidfd(started.pid) is None


def test_the_boot_is_named_by_the_kernel() -> None:
    assert len(read_boot_id()) == 36


def test_a_connection_of_this_very_process_is_among_the_kernels_sockets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as connection:
            found = [each for table in read_tcp_tables() for each in read_sockets(table)]
            ends = (connection.getsockname(), connection.getpeername())
            assert [each.uid for each in found if (each.local, each.remote) == ends] == [os.getuid()]


@pytest.mark.root
@in_network_namespace("203.0.113.9/32", "2001:db8::9/128")
async def test_every_address_of_both_families_is_found() -> None:
    found = {"127.0.0.1", "::1", "203.0.113.9", "2001:db8::9"}
    assert local_addresses() == found
    assert set(chain(*addresses_by_interface().values())) >= found


def test_an_interface_that_went_away_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netifaces, "interfaces", lambda: ["lo", "exclave-gone"])
    assert "127.0.0.1" in addresses_by_interface()["lo"]


def test_all_addresses_are_listed_by_one_call_however_many_interfaces_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    list_all = psutil.net_if_addrs
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: calls.append(1) or list_all())
    monkeypatch.setattr(netifaces, "ifaddresses", None)
    assert "127.0.0.1" in local_addresses()
    assert calls == [1]
