"""Rules that stop by themselves: what is written and read, and that the kernel does it when nobody lives."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from exclave.ending import EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.link.link import open_link
from exclave.redirect.kernel.nft import confirm_from_cold, find_armed
from exclave.redirect.kernel.observe import parse_listing
from exclave.redirect.reconciler import open_redirect
from exclave.redirect.rules.confirm_timer import render_arming, time_left, with_timer
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import render_ruleset, ruleset_digest

from ..lab import CLUSTER4, VM4, CallResult, Lab, as_proxies, open_lab
from ..policies import PLAIN

TOP = Path(__file__).parents[3]
POLICY = replace(PLAIN, addresses=(VM4,))
TIME = 1.0

# Written and read.


def test_only_chains_that_capture_check_the_timer() -> None:
    chain = ["chain x {", "    type filter hook prerouting priority -300; policy accept;", "}"]
    assert with_timer(chain) == chain
    assert with_timer(["set x {", "}"]) == ["set x {", "}"]
    text = render_ruleset(replace(PLAIN, armed_until=1.0, capture_interfaces=("docker0",)))
    capturing = text[: text.index("chain kept")]
    assert capturing.count("type nat hook") == text.count("@armed") == 3


def test_the_trial_and_keepalive_chains_ignore_the_timer() -> None:
    text = render_ruleset(replace(PLAIN, armed_until=1.0, trial="b"))
    for chain in ("trial", "kept"):
        rules = text.split(f"chain {chain} {{", 1)[1].split("}", 1)[0]
        assert "type nat hook" in rules and "@armed" not in rules


def test_the_digest_of_unconfirmed_rules_does_not_depend_on_their_end() -> None:
    digests = {ruleset_digest(replace(PLAIN, armed_until=end)) for end in (0.0, 1.0, 60.0)}
    assert len(digests) == 1
    assert ruleset_digest(PLAIN) not in digests


@pytest.mark.parametrize(
    ("left", "line"),
    [
        (60.0, "add element inet exclave armed { tcp timeout 60000ms }\n"),
        (0.0001, "add element inet exclave armed { tcp timeout 1ms }\n"),
        (0.0, ""),
        (-5.0, ""),
    ],
)
def test_the_timer_starts_with_the_time_that_is_left(left: float, line: str) -> None:
    assert render_arming(left) == line


ARMED_SET = {"set": {"name": "armed", "table": "exclave"}}


@pytest.mark.parametrize(
    ("elements", "left"),
    [
        ([{"elem": {"val": "tcp", "timeout": 60, "expires": 41}}], 41.0),
        ([{"elem": {"val": "tcp", "timeout": 1, "expires": 0}}], 0.1),
        ([], 0.0),
        (["tcp"], None),
    ],
    ids=["running", "running, less than a second", "over", "confirmed"],
)
def test_the_time_left_is_read_from_a_listing(elements: list[object], left: float | None) -> None:
    assert time_left([{"set": {**ARMED_SET["set"], "elem": elements}}]) == left
    assert time_left([{"set": {"name": "other"}}]) is None


def test_the_running_timer_is_no_change_by_others() -> None:
    def listed(*elements: object) -> str:
        made = {"set": {**ARMED_SET["set"], "elem": list(elements)}} if elements else ARMED_SET
        return json.dumps({"nftables": [{"table": {"name": "exclave"}}, made]})

    running, over = listed({"elem": {"val": "tcp", "timeout": 60, "expires": 41}}), listed()
    assert parse_listing(running).fingerprint == parse_listing(over).fingerprint
    assert (parse_listing(running).armed_left, parse_listing(over).armed_left) == (41.0, 0.0)


# With the kernel.

AGENT = Path(__file__).parents[1] / "programs" / "unconfirmed_agent.py"


@asynccontextmanager
async def agent(lab: Lab, state: Path) -> AsyncIterator[str]:
    """An agent in the machine, killed at the end; the stage that it reports once its rules are in place."""
    environment = os.environ | {"PYTHONPATH": f"{TOP / 'agent'}:{TOP / 'tests'}"}
    command = lab.vm.command("setpriv", "--pdeathsig=KILL", sys.executable, str(AGENT), str(state), VM4)
    async with trio.open_nursery() as nursery:
        run = await nursery.start(lambda task_status: _run(command, environment, task_status))
        assert run.stdout is not None
        yield (await run.stdout.receive_some()).decode().strip()
        run.kill()


async def _run(command: list[str], environment: dict[str, str], task_status: "trio.TaskStatus[trio.Process]") -> None:
    run = await trio.lowlevel.open_process(command, stdout=PIPE, env=environment)
    task_status.started(run)
    await run.wait()


async def called_until(lab: Lab, who: str) -> None:
    """Connect until `who` answers; each attempt lasts some milliseconds."""
    with trio.fail_after(20):
        while (await lab.call(lab.vm, CLUSTER4, 80)).who != who:
            pass


def store(state: Path, **record: object) -> None:
    (state / "unconfirmed.json").write_text(json.dumps(record))


async def test_unconfirmed_rules_of_a_killed_agent_stop_capturing(
    tmp_path: Path,
) -> None:
    """The next agent leaves it so, until the rules are confirmed. Open connections go on all the time."""
    store(tmp_path, seconds=TIME, begun=False)
    async with open_lab() as lab, open_link(EndingSwitch()):
        as_proxies(lab, "a")
        lab.listen(lab.peer, "peer", f"{CLUSTER4}/80")
        lab.listen(lab.vm, "application", f"{VM4}/8080")
        async with agent(lab, tmp_path) as stage:
            assert stage == "running"
            inside, outside = lab.talk(lab.vm, CLUSTER4, 80), lab.talk(lab.peer, VM4, 8080)
            assert (inside.who, outside.who) == ("proxy a", "proxy a")
        assert await lab.call(lab.vm, CLUSTER4, 80) == CallResult("proxy a", (CLUSTER4, 80))
        await called_until(lab, "peer")
        assert await lab.call(lab.peer, VM4, 8080) == CallResult("application")
        assert inside.is_alive() and outside.is_alive()
        async with agent(lab, tmp_path) as stage:
            assert stage == "over"
            assert (await lab.call(lab.vm, CLUSTER4, 80)).who == "peer"
            assert inside.is_alive() and outside.is_alive()
        (tmp_path / "unconfirmed.json").unlink()
        async with agent(lab, tmp_path) as stage:
            assert stage == "confirmed"
            assert (await lab.call(lab.vm, CLUSTER4, 80)).who == "proxy a"
            assert inside.is_alive() and outside.is_alive()


async def test_the_next_agent_inherits_the_time_that_is_left(tmp_path: Path) -> None:
    store(tmp_path, seconds=30.0, begun=False)
    async with open_lab() as lab, open_link(EndingSwitch()):
        for _ in range(2):
            async with agent(lab, tmp_path) as stage:
                assert stage == "running"
                left = await find_armed()
                assert left is not None and 40 < left <= 45  # with the grace
    assert json.loads((tmp_path / "unconfirmed.json").read_text()) == {"seconds": 30.0, "begun": True}


async def test_rules_can_be_confirmed_without_an_agent_in_time(tmp_path: Path) -> None:
    store(tmp_path, seconds=TIME, begun=False)
    async with open_lab() as lab, open_link(EndingSwitch()):
        async with agent(lab, tmp_path):
            pass
        await confirm_from_cold()
        assert "tcp }" in await lab.nft("list", "set", "inet", "exclave", "armed")
        assert await find_armed() is None


async def test_rules_whose_time_is_over_cannot_be_confirmed_without_an_agent() -> None:
    async with open_lab() as lab, open_link(EndingSwitch()):
        wanted = Latest[RedirectPolicy | None](replace(POLICY, armed_until=0.0))
        async with open_redirect(wanted, lab.network.scratch, EndingSwitch()) as redirect:
            assert redirect.in_place
        await confirm_from_cold()
        assert "elements" not in await lab.nft("list", "set", "inet", "exclave", "armed")


async def test_a_running_agent_can_end_the_timer_early_or_confirm() -> None:
    async with open_lab() as lab, open_link(EndingSwitch()):
        as_proxies(lab, "a")
        lab.listen(lab.peer, "peer", f"{CLUSTER4}/80")
        wanted = Latest[RedirectPolicy | None](replace(POLICY, armed_until=trio.current_time() + 600))
        async with open_redirect(wanted, lab.network.scratch, EndingSwitch()) as redirect:
            assert (await lab.call(lab.vm, CLUSTER4, 80)).who == "proxy a"
            stays = lab.talk(lab.vm, CLUSTER4, 80)
            wanted.set(replace(POLICY, armed_until=0.0))
            await redirect.observed.wait_for(lambda observed: observed.armed_left == 0)
            assert (await lab.call(lab.vm, CLUSTER4, 80)).who == "peer"
            wanted.set(POLICY)
            await redirect.observed.wait_for(lambda observed: observed.armed_left is None)
            assert (await lab.call(lab.vm, CLUSTER4, 80)).who == "proxy a"
            assert stays.is_alive()
            assert redirect.repairs == 0
