"""A swap of the real linkerd2-proxy, with policies that arrive and a trial that it takes part in.

EXCLAVE_LINKERD2_PROXY names the binary; no package registry has one, so without it these tests are skipped.
"""

import os

import pytest

from support.swap_lab import open_lab

NAMED = os.environ.get("EXCLAVE_LINKERD2_PROXY", "")

pytestmark = [
    pytest.mark.skipif(not NAMED, reason="needs the real linkerd2-proxy: EXCLAVE_LINKERD2_PROXY=/path/to/the/binary"),
]


async def test_its_policies_arrive_a_trial_is_made_and_nothing_fails() -> None:
    async with open_lab() as lab:
        lab.use_real_proxy(NAMED)
        async with lab.agent() as agent:
            await agent.until_alone()
            lab.start_real_controllers()
            async with lab.load(long=1) as loads:
                for new in ("b", "a"):
                    since = len(agent.told)
                    await agent.say("swap")
                    told = await agent.outcome()
                    assert (told["outcome"]["to"], told["error"]) == (new, None)
                    steps = {told["step"] for told in agent.told[since:] if "step" in told}
                    assert {"POLICIES", "TRYING", "MOVING"} <= steps
                    for load in loads.values():
                        await load.renew()
                    await agent.until_alone()
        assert {way: load.figures["failures"] for way, load in loads.items()} == {"inbound": {}, "outbound": {}}


async def test_without_policies_the_old_one_stays() -> None:
    async with open_lab() as lab:
        lab.use_real_proxy(NAMED)
        async with lab.agent() as agent:
            await agent.until_alone()
            await agent.say("swap")
            told = await agent.outcome()
            assert told["error"]["word"] == "unreachable"
            assert (await agent.until_alone())["rules"] == "a"
