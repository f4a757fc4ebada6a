"""The private link in a machine of its own: made, adopted, left, removed; links of others are not touched."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.link.link import (
    MARK,
    check_free,
    is_ours,
    link_addresses,
    missing_addresses,
    open_link,
    remove_link,
    superfluous_addresses,
)
from exclave_sandbox.stage.namespaces import Machine, open_network

from ..redirect.lab import doors_inside

EVERY = set(link_addresses(with_ipv6=True))
IPV4 = set(link_addresses(with_ipv6=False))

FOREIGN = "02:00:00:00:00:01"


class Host:
    """A machine, and its links."""

    def __init__(self, machine: Machine, scratch: Path) -> None:
        self.machine = machine
        self._ip = scratch / "inside" / "ip"

    async def ip(self, words: str) -> None:
        await self.machine.must("ip", *words.split())

    async def list_links(self) -> dict[str, tuple[str, set[str]]]:
        """Hardware address and addresses of each link, without the link-local ones that the kernel adds later."""
        links = json.loads(await self.machine.must("ip", "-json", "address", "show"))
        return {
            link["ifname"]: (
                link["address"],
                {
                    f"{info['local']}/{info['prefixlen']}"
                    for info in link["addr_info"]
                    if not info["local"].startswith("fe80:")
                },
            )
            for link in links
            if "address" in link
        }

    async def show(self) -> dict[str, Any]:
        """Everything that the kernel lists of our link."""
        shown: list[dict[str, Any]] = json.loads(
            await self.machine.must("ip", "-json", "-details", "link", "show", "exclave0")
        )
        return shown[0]

    def refuse(self, words: str) -> None:
        """Make `ip` refuse commands that begin with these words, as a kernel without that feature."""
        real = self._ip.read_text()
        refusing = f'case "$*" in "{words}"*) echo "Error: Unknown device type." >&2; exit 2;; esac'
        self._ip.write_text(real.replace("#!/bin/sh\n", f"#!/bin/sh\n{refusing}\n"))

    async def set_ipv6(self, which: str, value: str) -> None:
        await self.machine.must("sh", "-c", f"echo {value} > /proc/sys/net/ipv6/conf/{which}/disable_ipv6")


@asynccontextmanager
async def open_host() -> AsyncIterator[Host]:
    async with open_network() as network:
        machine = await network.add("vm", "10.77.0.20/24")
        with doors_inside(machine, network.scratch):
            yield Host(machine, network.scratch)


def asked(ending: Ending) -> EndingSwitch:
    endings = EndingSwitch()
    if ending is not Ending.HAND_OVER:
        endings.ask_nowait(ending)
    return endings


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
async def test_the_link_has_every_address_and_is_removed_unless_the_agent_hands_over(ending: Ending) -> None:
    async with open_host() as host:
        before = await host.list_links()
        async with open_link(asked(ending)) as name:
            assert name == "exclave0"
            assert (await host.list_links())["exclave0"] == (MARK, EVERY)
            routes = await host.machine.must("ip", "route", "show")
            assert b"exclave0" not in routes
        after = await host.list_links()
        assert ("exclave0" in after) == (ending is Ending.HAND_OVER)
        for _ in range(2):
            await remove_link()
        assert await host.list_links() == before


async def test_a_link_left_by_an_earlier_agent_is_adopted_and_completed() -> None:
    async with open_host() as host:
        async with open_link(asked(Ending.HAND_OVER)):
            pass
        index = (await host.show())["ifindex"]
        await host.ip("address delete 169.254.77.3/32 dev exclave0")
        await host.ip("link set exclave0 down")
        async with open_link(asked(Ending.STOP)):
            assert (await host.list_links())["exclave0"] == (MARK, EVERY)
            shown = await host.show()
            assert "UP" in shown["flags"]
            assert shown["ifindex"] == index  # the same link, so open sockets on it go on
        assert "exclave0" not in await host.list_links()


async def test_a_link_of_our_name_that_others_made_is_refused_and_never_removed() -> None:
    async with open_host() as host:
        await host.ip(f"link add exclave0 address {FOREIGN} type bridge")
        before = await host.list_links()
        with pytest.raises(HostError) as caught:
            async with open_link(asked(Ending.LEAVE)):
                pass
        assert caught.value.fault is Fault.OCCUPIED
        assert caught.value.message == "a link exclave0 exists that exclave did not make"
        await remove_link()
        assert await host.list_links() == before


async def test_an_address_of_ours_on_another_link_is_refused_and_never_removed() -> None:
    async with open_host() as host:
        await host.ip("address add 169.254.77.2/32 dev eth0")
        before = await host.list_links()
        with pytest.raises(HostError) as caught:
            async with open_link(asked(Ending.LEAVE)):
                pass
        assert caught.value.fault is Fault.OCCUPIED
        assert caught.value.message == "the address 169.254.77.2, which exclave needs, is on eth0"
        await remove_link()
        assert await host.list_links() == before


async def test_if_no_link_can_be_made_the_addresses_are_on_lo() -> None:
    async with open_host() as host:
        before = await host.list_links()
        host.refuse("link add")
        async with open_link(asked(Ending.STOP)) as name:
            assert name == "lo"
            links = await host.list_links()
            assert "exclave0" not in links
            assert links["lo"][1] == before["lo"][1] | EVERY
        assert await host.list_links() == before


async def test_without_dummy_links_a_bridge_serves() -> None:
    async with open_host() as host:
        host.refuse(f"link add exclave0 address {MARK} type dummy")
        async with open_link(asked(Ending.STOP)):
            assert (await host.show())["linkinfo"]["info_kind"] == "bridge"
            assert (await host.list_links())["exclave0"] == (MARK, EVERY)


@pytest.mark.parametrize("which", ["all", "default"])
async def test_a_host_without_ipv6_gets_ipv4_addresses_only(which: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "exclave.link")
    async with open_host() as host:
        await host.set_ipv6(which, "1")
        async with open_link(asked(Ending.STOP)):
            assert (await host.list_links())["exclave0"] == (MARK, IPV4)
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith("redirect: exclave0 does not accept IPv6 addresses and has none: ")


async def test_a_missing_capability_is_reported_and_nothing_is_left() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        host = Host(machine, network.scratch)
        before = await host.list_links()
        unprivileged = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin"
        with doors_inside(machine, network.scratch, prefix=unprivileged):
            with pytest.raises(HostError) as caught:
                async with open_link(asked(Ending.STOP)):
                    pass
        assert caught.value.fault is Fault.NO_PRIVILEGE
        assert caught.value.message == "making the link exclave0 is not permitted"
        assert caught.value.hint == "run as root, with the capability NET_ADMIN"
        assert await host.list_links() == before


async def test_another_refusal_by_ip_is_reported_in_its_words() -> None:
    async with open_host() as host:
        host.refuse("-batch")
        with pytest.raises(HostError) as caught:
            async with open_link(asked(Ending.STOP)):
                pass
        assert caught.value.fault is Fault.OCCUPIED
        assert caught.value.message == "cannot set up the link exclave0: Error: Unknown device type."
        assert caught.value.hint == "exclave cleanup, then try again"


async def test_a_missing_or_hanging_ip_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        await remove_link()
    assert (caught.value.fault, caught.value.message, caught.value.hint) == (
        Fault.NFT_UNUSABLE,
        "the program ip cannot be run: No such file or directory",
        "install it: apt install iproute2",
    )
    (tmp_path / "ip").write_text("#!/bin/sh\nexec /usr/bin/sleep 600\n")
    (tmp_path / "ip").chmod(0o755)
    with pytest.raises(HostError) as caught:
        await remove_link()
    assert (caught.value.fault, caught.value.message, caught.value.hint) == (
        Fault.TOOL_HANGS,
        "the program ip did not end within 30 s",
        "see what holds the kernel's links: ip monitor",
    )


ORDERED = link_addresses(with_ipv6=True)


def link(name: str, *addresses: str, mark: str = "02:00:00:00:00:01") -> dict[str, Any]:
    """A link as `ip -json address show` prints it."""
    infos = [{"local": address.split("/")[0], "prefixlen": int(address.split("/")[1])} for address in addresses]
    return {"ifname": name, "address": mark, "addr_info": infos}


def test_each_address_is_single_so_that_no_route_appears() -> None:
    assert link_addresses(with_ipv6=False) == (
        "169.254.77.1/32",
        "169.254.77.2/32",
        "169.254.77.3/32",
        "169.254.77.4/32",
    )
    assert ORDERED[4:] == ("fd77:ec1a:7e::1/128", "fd77:ec1a:7e::2/128", "fd77:ec1a:7e::3/128", "fd77:ec1a:7e::4/128")


def test_our_link_has_a_locally_administered_hardware_address() -> None:
    assert is_ours(link("exclave0", mark=MARK))
    assert not is_ours(link("exclave0"))
    assert not is_ours({"ifname": "exclave0"})
    assert int(MARK.split(":")[0], 16) & 0b11 == 0b10


FREE: dict[str, list[dict[str, Any]]] = {
    "a host without any of it": [link("lo", "127.0.0.1/8"), link("eth0", "10.0.0.5/24")],
    "our own link with its addresses": [link("exclave0", *ORDERED, mark=MARK)],
    "our addresses on lo, where no link can be made": [link("lo", *ORDERED)],
    "a neighbouring address": [link("eth0", "169.254.77.5/29")],
    "a link without an address of its own": [{"ifname": "tun0", "addr_info": [{"family": "inet"}]}, {"ifname": "ppp0"}],
}


@pytest.mark.parametrize("links", FREE.values(), ids=FREE)
def test_a_host_is_free_for_the_link(links: list[dict[str, Any]]) -> None:
    check_free(links, ORDERED)


def test_a_link_of_our_name_that_others_made_is_not_touched() -> None:
    with pytest.raises(HostError) as caught:
        check_free([link("exclave0")], ORDERED)
    assert caught.value.fault is Fault.OCCUPIED
    assert caught.value.message == "a link exclave0 exists that exclave did not make"
    assert caught.value.hint == "rename or remove it: ip link delete exclave0"


@pytest.mark.parametrize("address", ["169.254.77.3/32", "fd77:ec1a:7e::1/128"])
def test_our_address_on_another_link_is_reported_with_that_link(address: str) -> None:
    with pytest.raises(HostError) as caught:
        check_free([link("exclave0", mark=MARK), link("eth1", "10.0.0.1/8", address)], ORDERED)
    assert caught.value.fault is Fault.OCCUPIED
    assert caught.value.message == f"the address {address.split('/')[0]}, which exclave needs, is on eth1"
    assert caught.value.hint == f"remove it there: ip address delete {address} dev eth1"


def test_only_missing_addresses_are_added() -> None:
    links = [link("exclave0", "169.254.77.1/32", mark=MARK), link("lo", "169.254.77.2/32")]
    assert missing_addresses(links, "exclave0", ("169.254.77.1/32", "169.254.77.2/32", "fd77:ec1a:7e::1/128")) == [
        "address add 169.254.77.2/32 dev exclave0",
        "address add fd77:ec1a:7e::1/128 dev exclave0 nodad",
    ]
    assert missing_addresses([link("lo", *ORDERED)], "lo", ORDERED) == []


def test_only_our_addresses_are_removed_from_lo() -> None:
    links = [link("lo", "127.0.0.1/8", "169.254.77.4/32", "169.254.77.1/24"), link("exclave0", *ORDERED, mark=MARK)]
    assert superfluous_addresses(links, ORDERED) == ["address delete 169.254.77.4/32 dev lo"]
