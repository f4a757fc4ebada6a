"""The private link in a machine of its own: made, adopted, left, removed; links of others are not touched."""

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.link.link import open_link, remove_link
from exclave.link.plan import MARK, link_addresses
from exclave_sandbox.stage.namespaces import Machine, open_network

from ..redirect.agent_process import start_agent
from ..redirect.lab import VM4, as_proxies, doors_inside, open_lab
from ..redirect.policies import PLAIN

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
        async with open_link(asked(ending)) as link:
            assert link.device == "exclave0"
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
        async with open_link(asked(Ending.STOP)) as link:
            assert link.device == "lo"
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


# What others do to it while the agent runs.

REPORTED = "redirect: the private link "

DAMAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "all addresses are flushed": (
        ("ip address flush dev exclave0",),
        "lost its address 169.254.77.1",
    ),
    "one address is deleted": (
        ("ip address delete 169.254.77.3/32 dev exclave0",),
        "lost its address 169.254.77.3",
    ),
    "it is set down": (
        ("ip link set exclave0 down",),
        "was set down and lost its address fd77:ec1a:7e::1 and 3 more",
    ),
    "it is renamed": (
        ("ip link set exclave0 down", "ip link set exclave0 name lan7"),
        "was ",
    ),
    "it is deleted": (("ip link delete exclave0",), "was deleted"),
    "it gets another hardware address": (
        ("ip link set exclave0 address 02:00:00:00:00:07",),
        "got the hardware address 02:00:00:00:00:07",
    ),
    "IPv6 is disabled for it": (
        ("sh -c 'echo 1 > /proc/sys/net/ipv6/conf/exclave0/disable_ipv6'",),
        "lost its address fd77:ec1a:7e::1 and 3 more",
    ),
}


async def is_whole(host: Host) -> bool:
    """Whether the link is there, up, with all addresses."""
    links = await host.list_links()
    return links.get("exclave0") == (MARK, EVERY) and "UP" in (await host.show())["flags"]


@pytest.mark.parametrize(("commands", "report"), DAMAGES.values(), ids=DAMAGES)
async def test_the_link_is_restored_and_connections_go_on_when(
    commands: tuple[str, ...], report: str, tmp_path: Path
) -> None:
    async with open_lab() as lab:
        host = Host(lab.vm, lab.network.scratch)
        agent = await start_agent(lab.vm, tmp_path, PLAIN)
        as_proxies(lab, "a")
        flows = lab.flows(lab.peer, 5, f"{VM4}/8080")
        for command in commands:
            await lab.vm.must("sh", "-c", command)
        assert (await agent.wait_log(f"{REPORTED}{report}")).endswith(" ms")
        with trio.fail_after(20):
            while not await is_whole(host):  # a change of two commands is two repairs
                await agent.wait_log(REPORTED)
        assert await flows.alive() == ["proxy a"] * 5
        assert (await lab.call(lab.peer, VM4, 8080)).who == "proxy a"
        await agent.end("stop")
        assert "exclave0" not in await host.list_links()


async def test_a_program_that_runs_on_is_named(tmp_path: Path) -> None:
    async with open_lab() as lab:
        agent = await start_agent(lab.vm, tmp_path, PLAIN)
        inside = ["nsenter", f"--net=/proc/{lab.vm.pid}/ns/net", "--"]
        other = subprocess.Popen([*inside, "/usr/sbin/ip", "-batch", "-"], stdin=subprocess.PIPE)
        assert other.stdin is not None
        other.stdin.write(b"address delete 169.254.77.3/32 dev exclave0\n")
        other.stdin.flush()
        line = await agent.wait_log(f"{REPORTED}lost its address 169.254.77.3")
        assert f"(by ip, process {other.pid})" in line
        other.communicate()
        agent.kill()


async def test_ipv6_that_is_disabled_everywhere_is_awaited(tmp_path: Path) -> None:
    async with open_lab() as lab:
        host = Host(lab.vm, lab.network.scratch)
        agent = await start_agent(lab.vm, tmp_path, PLAIN)
        await host.set_ipv6("all", "1")
        await agent.wait_log("redirect: exclave0 does not accept IPv6 addresses and has none: ")
        assert (await host.list_links())["exclave0"] == (MARK, IPV4)
        await host.set_ipv6("all", "0")
        await agent.wait_log("redirect: exclave0 has its IPv6 addresses again")
        assert await is_whole(host)
        agent.kill()


async def test_whoever_undoes_each_repair_is_named_and_fought_slowly(tmp_path: Path) -> None:
    async with open_lab() as lab:
        agent = await start_agent(lab.vm, tmp_path, PLAIN)
        fight = "while :; do ip address delete 169.254.77.1/32 dev exclave0 2>&-; done"
        lab.start(lab.vm, f"import subprocess; subprocess.run(['sh', '-c', {fight!r}])")
        line = await agent.wait_log("redirect: another program undoes each repair of the private link")
        assert "lost its address 169.254.77.1" in line
        agent.kill()
