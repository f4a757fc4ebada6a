"""Programs of other users at the private link's addresses, and neighbours: none gets a connection."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from exclave.ending import Ending, EndingSwitch
from exclave.link.link import open_link
from exclave.redirect.private_table import has_private_table, remove_private_table
from exclave.redirect.rules.private import render_private

from .agent_process import start_agent
from .lab import CLUSTER4, CLUSTER6, VM4, Lab, as_proxies, open_lab, read_program
from .policies import PLAIN, PROXY

POLICY = replace(PLAIN, networks=("10.42.0.0/16", "fd00:42::/32"), families=(4, 6))
OTHER = 1000  # another user of the machine
A4, A6, B4 = "169.254.77.1", "fd77:ec1a:7e::1", "169.254.77.2"
DNS4 = "169.254.77.3"

PORTS = (4140, 4143, 4191)
CALLS = 5
PATIENCE = 0.5  # seconds for a call that nobody answers: it lasts so long
SLOW = 60.0  # seconds for a call that is answered, on a slow machine


@asynccontextmanager
async def open_link_only(lab: Lab, *, with_table: bool = True) -> AsyncIterator[None]:
    """The private link, and its rules unless they are left out."""
    endings = EndingSwitch()
    endings.ask_nowait(Ending.STOP)
    async with open_link(endings):
        if with_table:
            assert (await lab.vm.run("nft", "-f", "-", stdin=render_private((0, PROXY)).encode())).errors == ""
        yield


async def answers(lab: Lab, *calls: tuple[str, int], timeout: float = PATIENCE) -> set[str]:
    """Who answers root's connections, each of them made several times."""
    found: list[str] = []

    async def call(address: str, port: int) -> None:
        found.append((await lab.call(lab.vm, address, port, timeout=timeout)).who)

    async with trio.open_nursery() as nursery:
        for address, port in calls * CALLS:
            nursery.start_soon(call, address, port)
    assert len(found) == len(calls) * CALLS
    return set(found)


SQUATTERS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, int], ...]]] = {
    "the active instance's outbound port": ((f"{A4}/4140", f"{A6}/4140"), ((CLUSTER4, 80), (CLUSTER6, 80))),
    "the outbound port of every address": (("0.0.0.0/4140",), ((CLUSTER4, 80), (B4, 4140))),
    "every port of an idle instance": (tuple(f"{B4}/{port}" for port in PORTS), tuple((B4, port) for port in PORTS)),
    "the trial's address": (("169.254.77.4/4140",), (("169.254.77.4", 4140),)),
}


@pytest.mark.parametrize(("places", "calls"), SQUATTERS.values(), ids=SQUATTERS)
async def test_no_connection_of_root_reaches_another_users_program_at(
    places: tuple[str, ...], calls: tuple[tuple[str, int], ...]
) -> None:
    async with open_lab() as lab, open_link_only(lab, with_table=False):
        await lab.load(POLICY)
        lab.listen(lab.vm, "another user", *places, uid=OTHER)
        assert await answers(lab, *calls, timeout=SLOW) == {"another user"}  # what happens without the table
        await lab.vm.run("nft", "-f", "-", stdin=render_private((0, PROXY)).encode())
        assert await answers(lab, *calls) == {"TimeoutError"}


async def test_a_pods_connection_reaches_no_other_users_program() -> None:
    async with open_lab() as lab, open_link_only(lab):
        await lab.load(POLICY)
        lab.listen(lab.vm, "another user", f"{A4}/4143", uid=OTHER)
        assert (await lab.call(lab.peer, VM4, 8080, timeout=PATIENCE)).who == "TimeoutError"


@pytest.mark.parametrize("port", [4140, 4191])
async def test_no_connection_reaches_another_users_program_by_syn_cookies(port: int) -> None:
    """A SYN-ACK with a cookie has no socket. A listener whose queue is full sends such ones; 2: always."""
    async with open_lab() as lab, open_link_only(lab):
        await lab.vm.must("sh", "-c", "echo 2 > /proc/sys/net/ipv4/tcp_syncookies")
        lab.listen(lab.vm, "another user", f"{A4}/{port}", uid=OTHER)
        assert await answers(lab, (A4, port)) == {"TimeoutError"}


async def test_the_proxy_gets_its_connections_also_with_cookies_from_outside() -> None:
    async with open_lab() as lab, open_link_only(lab):
        as_proxies(lab, "a")
        await lab.load(POLICY)
        for address in (CLUSTER4, CLUSTER6):
            assert (await lab.call(lab.vm, address, 80, uid=OTHER, timeout=SLOW)).who == "proxy a"
        assert (await lab.call(lab.peer, VM4, 8080, timeout=SLOW)).who == "proxy a"
        await lab.vm.must("sh", "-c", "echo 2 > /proc/sys/net/ipv4/tcp_syncookies")
        assert (await lab.call(lab.peer, VM4, 8080, timeout=SLOW)).who == "proxy a"


@pytest.mark.parametrize("with_table", [False, True])
async def test_neighbours_do_not_reach_the_link_while_there_are_no_other_rules(with_table: bool) -> None:
    async with open_lab() as lab, open_link_only(lab, with_table=with_table):
        as_proxies(lab, "a")
        lab.listen(lab.vm, "stub", f"{DNS4}/53")
        await lab.peer.must("ip", "route", "add", "169.254.77.0/29", "via", VM4)
        found = [
            (await lab.call(lab.peer, address, port, timeout=PATIENCE if with_table else SLOW)).who
            for address, port in ((A4, 4140), (A4, 4143), (DNS4, 53))
        ]
        assert found == (["TimeoutError"] * 3 if with_table else ["proxy a", "proxy a", "stub"])


@pytest.mark.parametrize("is_started", [True, False], ids=["an agent starts and stops", "the link alone is made"])
async def test_neighbours_get_no_answer_at_any_time(is_started: bool, tmp_path: Path) -> None:
    """Programs of root listen everywhere from the beginning, and a neighbour calls every 2 ms."""
    async with open_lab() as lab:
        await lab.peer.must("ip", "route", "add", "169.254.77.0/29", "via", VM4)
        lab.listen(lab.vm, "stub", "0.0.0.0/53", "0.0.0.0/4140", "0.0.0.0/4143")
        places = [f"{A4}/4140", f"{A4}/4143", f"{DNS4}/53"]
        knocking = lab.start(lab.peer, read_program("knock"), *places, expecting="up")
        if is_started:
            agent = await start_agent(lab.vm, tmp_path, POLICY)
            await agent.end("stop")
        else:
            async with open_link_only(lab, with_table=False):
                assert (await lab.call(lab.peer, A4, 4140)).who == "stub"
        output, _ = knocking.communicate()
        rounds, answered = json.loads(output)
        assert rounds > 10
        assert (answered == 0) is is_started


CHANGES: dict[str, Callable[[], tuple[str, ...]]] = {
    "all rules are flushed": lambda: ("flush", "ruleset"),
    "the table is deleted": lambda: ("delete", "table", "inet", "exclave-private"),
    "a chain is emptied": lambda: ("flush", "chain", "inet", "exclave-private", "answers"),
    "a rule comes first": lambda: ("insert", "rule", "inet", "exclave-private", "owners", "accept"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_it_is_restored_when(change: Callable[[], tuple[str, ...]], tmp_path: Path) -> None:
    async with open_lab() as lab:
        agent = await start_agent(lab.vm, tmp_path, POLICY)
        before = await lab.nft("-s", "list", "table", "inet", "exclave-private")
        await lab.nft(*change())
        await agent.wait_log("redirect: another program changed the private link's rules")
        assert await lab.nft("-s", "list", "table", "inet", "exclave-private") == before
        await agent.end("stop")
        assert "exclave" not in await lab.nft("list", "tables")


async def test_it_stays_when_the_agent_is_killed_and_goes_without_an_agent(tmp_path: Path) -> None:
    async with open_lab() as lab:
        assert not await has_private_table()
        agent = await start_agent(lab.vm, tmp_path, POLICY)
        agent.kill()
        assert await has_private_table()
        lab.listen(lab.vm, "another user", f"{A4}/4140", uid=OTHER)
        assert await answers(lab, (CLUSTER4, 80)) == {"TimeoutError"}
        await remove_private_table()
        await remove_private_table()
        assert not await has_private_table()
