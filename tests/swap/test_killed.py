"""The agent is killed with SIGKILL at every step of a swap: traffic goes on, and the next agent tidies up."""

import subprocess
import sys

import pytest

from exclave.swap.swap import SwapPhase
from support.agent_program import LISTEN_AT, is_alone
from support.swap_lab import Lab, open_lab

AFTERWARDS: dict[str, str] = {
    "STARTING": "a",
    "CERTIFYING": "a",
    "POLICIES": "a",
    "TRYING": "a",
    "MOVING": "ab",  # one transaction: the kernel had it, or had not
    "DRAINING": "b",
    "ENDING": "b",
}
"""Where traffic goes once the agent has been killed at the beginning of each step."""


def test_every_phase_is_in_the_matrix() -> None:
    assert list(AFTERWARDS) == [step.name for step in SwapPhase]


async def rules(lab: Lab) -> str:
    """Where the kernel's rules point, by the mark that they bear."""
    listed = (await lab.vm.must("nft", "list", "table", "inet", "exclave")).decode()
    return listed.split('comment "', 1)[1][0]


@pytest.mark.parametrize("step", AFTERWARDS)
async def test_traffic_goes_on_and_the_next_agent_ends_the_other_instance(step: str) -> None:
    async with open_lab() as lab:
        async with lab.agent(die_at=step) as agent:
            await agent.until_alone()
            async with lab.load(workers=1, long=1) as loads:
                await agent.send("swap")
                if step == "ENDING":
                    await agent.until(lambda report: report.get("step") == "DRAINING")
                    for load in loads.values():
                        await load.renew()
                await agent.until_dead()
                active = await rules(lab)
                assert active in AFTERWARDS[step]
                for load in loads.values():
                    await load.renew()  # nobody watches, and connections come and go
                async with lab.agent() as following:
                    report = await following.until_whole()
                    assert (report["rules"], report["starts"]) == (active, 0)
                    for load in loads.values():
                        await load.renew()
                    if not is_alone(report):  # the other one may have ended before the report
                        report = await following.until_alone()
                    assert report["rules"] == active
                    assert (await lab.proxies(), report["trial"]) == ([report["instances"][active]["pid"]], None)
                    await following.send("swap")
                    other = {"a": "b", "b": "a"}[active]
                    outcome = await following.outcome()
                    assert (outcome["error"], outcome["outcome"]["to"]) == (None, other)
                    for load in loads.values():
                        await load.renew()
                    await following.until_alone()
                    await following.end("hand-over")
        failures = {way: load.failures for way, load in loads.items()}
        assert failures == {"inbound": {}, "outbound": {}}


async def test_another_program_on_the_other_instance_s_ports_is_not_ended() -> None:
    """A record that matches no process is dropped. The other program has the ports, and a swap reports that."""
    async with open_lab() as lab:
        async with lab.agent() as agent:
            await agent.until_alone()
            await agent.end("hand-over")
        stranger = lab.vm.command(sys.executable, "-I", str(LISTEN_AT), "169.254.77.2", "4143")
        with subprocess.Popen(stranger, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"up\n"
            async with lab.agent() as agent:
                await agent.until_whole()
                await agent.send("swap")
                report = await agent.outcome()
                assert report["error"]["word"] == "taken"
                assert running.poll() is None
                running.communicate(b"\n")
                await agent.send("swap")
                assert (await agent.outcome())["error"] is None
