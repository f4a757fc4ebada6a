"""The keepalive table: what a flush of all rules does to connections with and without it, and when it goes."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import psutil
import pytest
import trio
import trio.testing

from exclave.ending import Ending, EndingSwitch
from exclave.kit.host.gated import HeldProcess, make_record
from exclave.kit.host.process_identity import ProcessRecord
from exclave.kit.host.procfs import view_process
from exclave.redirect.keepalive import (
    COMMANDS,
    END_TIME,
    FILE,
    KEEPALIVE_TABLE,
    _launch,
    is_owned,
    open_keepalive,
    remove_keepalive,
)
from exclave.redirect.kernel.observe import find_error

from .agent_process import AgentProcess, start_agent
from .lab import CLUSTER4, CLUSTER6, VM4, VM6, CallResult, Flows, Lab, as_proxies, open_lab
from .policies import PLAIN

POLICY = replace(PLAIN, networks=("10.42.0.0/16", "fd00:42::/32"), families=(4, 6))

MEMBERS = {VM4: POLICY, VM6: replace(POLICY, addresses=(VM6,))}
"""A member has one family inbound, and both outbound."""

NOBODY = "10.42.0.77"

EACH = 14
"""Connections inbound, and as many outbound of each family: 42 in all."""

TABLE = "table inet exclave-guard"


def keepalive_of(runtime: Path) -> int:
    pid = json.loads((runtime / "guard.json").read_text())["pid"]
    assert isinstance(pid, int)
    return pid


@asynccontextmanager
async def open_machine(runtime: Path, own: str = VM4) -> AsyncIterator[tuple[Lab, AgentProcess]]:
    """An agent's redirect inside of a machine, with both instances of a proxy."""
    async with open_lab() as lab:
        agent = await start_agent(lab.vm, runtime, MEMBERS[own])
        try:
            as_proxies(lab, "a")
            yield lab, agent
        finally:
            agent.kill()
            await remove_keepalive(runtime)


def talk(lab: Lab, own: str = VM4) -> tuple[Flows, Flows]:
    return (
        lab.flows(lab.peer, EACH, f"{own}/8080"),
        lab.flows(lab.vm, EACH, f"{CLUSTER4}/80", f"{CLUSTER6}/80"),
    )


async def alive(flows: tuple[Flows, ...]) -> int:
    return sum([len(await each.alive()) for each in flows])


async def flush_until_repaired(lab: Lab, agent: AgentProcess) -> None:
    await lab.nft("flush", "ruleset")
    line = await agent.wait_log("redirect: [action=repair")
    assert "instance=a" in line


@pytest.mark.parametrize("own", MEMBERS)
async def test_with_the_keepalive_table_no_flush_resets_a_connection(own: str, tmp_path: Path) -> None:
    async with open_machine(tmp_path, own) as (lab, agent):
        flows = talk(lab, own)
        assert await alive(flows) == 3 * EACH
        for _ in range(5):
            await flush_until_repaired(lab, agent)
            assert await alive(flows) == 3 * EACH


async def test_a_half_open_connection_from_before_the_rules_bypasses_them_no_longer(tmp_path: Path) -> None:
    """The kernel remembers connections while the keepalive table exists; it translates them at their first packet."""
    async with open_lab() as lab:
        await lab.nft("add", "table", "inet", "memory")
        await lab.nft("add", "chain", "inet", "memory", "kept", "{ type nat hook prerouting priority 0; }")
        await lab.nft("add", "rule", "inet", "memory", "kept", "ct state invalid accept")
        lost = await lab.call(lab.vm, NOBODY, 80, timeout=0.1, source_port=40001)
        assert lost == CallResult("TimeoutError", None)
        agent = await start_agent(lab.vm, tmp_path, POLICY)
        try:
            as_proxies(lab, "a")
            await agent.wait_log("redirect: half-open connections deleted, since they began without rules: 1")
            assert await lab.call(lab.vm, NOBODY, 80, source_port=40001) == CallResult("proxy a", (NOBODY, 80))
        finally:
            agent.kill()
            await remove_keepalive(tmp_path)


async def test_without_it_a_flush_resets_connections_and_the_agent_warns_of_that(tmp_path: Path) -> None:
    """A keepalive process without a record is ended, since no later agent could find it; the rest works."""
    absent = tmp_path / "absent"
    async with open_machine(absent) as (lab, agent):
        (line,) = [line for line in agent.logs if "no keepalive process" in line]
        assert line.startswith(
            "redirect: a flush of all rules by others will reset connections: no keepalive process: cannot "
        )
        assert TABLE not in await lab.nft("list", "tables")
        assert psutil.Process(agent.pid).children() == []
        flows = talk(lab)
        await flush_until_repaired(lab, agent)
        assert await alive(flows) < 3 * EACH  # else the test above proves nothing


async def test_an_agent_killed_before_the_record_was_written_leaves_no_process() -> None:
    gated, answers = _launch("/nowhere/nft")
    os.close(gated._gate)
    assert await gated.process.wait() == 0
    assert os.read(answers, 99) == b""
    gated.process.close()
    os.close(answers)


async def test_an_agent_ends_although_the_process_ignores_signals(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endings = EndingSwitch()
    sleep = Path(shutil.which("sleep") or "").resolve()
    process = subprocess.Popen([sleep, "1000"])
    try:
        (tmp_path / FILE).write_text(json.dumps(asdict(make_record(process.pid, str(sleep)))))
        monkeypatch.setattr(HeldProcess, "send", lambda *_: None)
        async with open_keepalive(tmp_path, endings):
            began = trio.current_time()
            endings.ask_nowait(Ending.STOP)
        assert trio.current_time() == began + END_TIME
    finally:
        process.kill()
        process.wait()
    assert caplog.messages == [
        "redirect: the keepalive process has not ended 10 s after SIGKILL; exclave cleanup tries again"
    ]
    assert (tmp_path / FILE).exists(), "cleanup finds the process by its record"


@pytest.mark.root
async def test_others_cannot_change_the_keepalive_table_and_it_ends_with_its_process(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as (lab, agent):
        assert TABLE in await lab.nft("list", "tables")
        for command in ("flush ruleset", "delete table inet exclave-guard", "flush table inet exclave-guard"):
            await lab.vm.run("nft", command)
        assert "ct state invalid" in await lab.nft("list", *TABLE.split())
        os.kill(keepalive_of(tmp_path), signal.SIGKILL)
        await agent.wait_log("redirect: the keepalive process ")
        assert TABLE not in await lab.nft("list", "tables")
        await agent.wait_log("redirect: process ")  # another follows
        assert TABLE in await lab.nft("list", "tables")


@pytest.mark.parametrize("ending", ["leave", "stop"])
async def test_leave_and_stop_end_it_after_the_proxy_and_leave_nothing(ending: str, tmp_path: Path) -> None:
    async with open_lab() as lab:
        before = await lab.nft("list", "ruleset")
        agent = await start_agent(lab.vm, tmp_path, POLICY)
        as_proxies(lab, "a")
        flows, keepalive = talk(lab), keepalive_of(tmp_path)
        agent.send(ending)
        await agent.wait("draining")
        await lab.nft("flush", "ruleset")  # nobody repairs now, and connections live on all the same
        assert await alive(flows) == 3 * EACH
        agent.send("the proxy has ended")
        await agent.wait("closed")
        assert view_process(keepalive) is None
        assert await lab.nft("list", "ruleset") == before
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["hand-over", "kill -9"])
async def test_the_next_agent_adopts_it_and_no_connection_notices(how: str, tmp_path: Path) -> None:
    async with open_machine(tmp_path) as (lab, first):
        flows, keepalive = talk(lab), keepalive_of(tmp_path)
        if how == "kill -9":
            first.kill()
        else:
            await first.end("hand-over")
        await lab.nft("flush", "ruleset")  # while no agent runs
        assert await alive(flows) == 3 * EACH
        second = await start_agent(lab.vm, tmp_path, POLICY)
        assert f"redirect: adopted the keepalive process {keepalive}" in second.logs
        assert keepalive_of(tmp_path) == keepalive
        await flush_until_repaired(lab, second)
        assert await alive(flows) == 3 * EACH
        await second.end("leave")
        assert view_process(keepalive) is None
        assert await lab.nft("list", "tables") == ""


async def test_without_an_agent_it_is_ended_by_its_record(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as (lab, agent):
        keepalive = keepalive_of(tmp_path)
        agent.kill()
        assert await remove_keepalive(tmp_path) == keepalive
        assert TABLE not in await lab.nft("list", "tables")
        assert await remove_keepalive(tmp_path) is None
        assert not (tmp_path / "guard.json").exists()


async def test_the_process_of_an_agent_with_more_rights_stays_for_a_cleanup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Linux hides /proc/PID/exe of a process with more capabilities than the reader's."""
    async with open_machine(tmp_path) as (_, agent):
        keepalive = keepalive_of(tmp_path)
        agent.kill()
        endings = EndingSwitch()
        with monkeypatch.context() as patched:
            patched.setattr("exclave.redirect.keepalive.adopt_process", refuse)
            async with open_keepalive(tmp_path, endings):
                endings.ask_nowait(Ending.LEAVE)
            assert await remove_keepalive(tmp_path) is None
        assert caplog.text.count("can only be ended by: exclave cleanup") == 2
        assert view_process(keepalive) is not None
        assert await remove_keepalive(tmp_path) == keepalive


def refuse(_: ProcessRecord) -> NoReturn:
    raise PermissionError


OTHERS = {
    "of an earlier boot": {"boot_id": "another"},
    "started at another time": {"start_ticks": 1},
    "of another program": {"executable": "/usr/bin/true"},
}


@pytest.mark.parametrize("differs", OTHERS.values(), ids=OTHERS)
async def test_a_process_that_is_not_ours_is_neither_used_nor_ended(differs: dict[str, object], tmp_path: Path) -> None:
    async with open_machine(tmp_path) as (_, first):
        keepalive = keepalive_of(tmp_path)
        first.kill()
        path = tmp_path / "guard.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | differs))
        assert await remove_keepalive(tmp_path) is None
        assert view_process(keepalive) is not None
        os.kill(keepalive, signal.SIGKILL)


LISTING = """\
table inet exclave-guard { # progname nft
	flags owner

	chain kept {
		type nat hook prerouting priority dstnat + 10; policy accept;
		ct state invalid accept
	}
}
"""

ANSWERS = {
    "nothing yet": ("", False, None),
    "the table, as nft 1.0.6 lists it": (LISTING, True, None),
    "the table, behind a prompt that echoes": (f"nft> {COMMANDS}{LISTING}", True, None),
    "half of the table": (LISTING[:-3], False, None),
    "a table without an owner": (LISTING.replace("\tflags owner\n", ""), False, None),
    "a kernel without owned tables": (
        "Error: Could not process rule: Operation not supported\nadd table inet exclave-guard { flags owner;\n",
        False,
        "Error: Could not process rule: Operation not supported",
    ),
    "half of an error": ("Error: Could not pro", False, None),
    "an nft without -i": (
        "Error: Interactive CLI not supported in this build\n",
        False,
        "Error: Interactive CLI not supported in this build",
    ),
}


@pytest.mark.parametrize(("answer", "owned", "reason"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_of_nft_shows_an_owned_table_or_an_error(answer: str, owned: bool, reason: str | None) -> None:
    assert is_owned(answer) == owned
    assert find_error(answer) == reason


def test_the_table_is_made_before_it_is_listed() -> None:
    """A line is one transaction, and nft lists what a line is to make before the kernel has it."""
    made, listed, rest = COMMANDS.split("\n")
    assert made.startswith("add table inet ")
    assert (listed, rest) == (f"list table inet {KEEPALIVE_TABLE}", "")
