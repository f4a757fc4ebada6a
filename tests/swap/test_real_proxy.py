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


async def test_policies_arrive_the_trial_succeeds_and_no_request_fails() -> None:
    async with open_lab() as lab:
        lab.use_real_proxy(NAMED)
        async with lab.agent() as agent:
            await agent.until_alone()
            lab.start_real_controllers()
            async with lab.load(long=1) as loads:
                for new in ("b", "a"):
                    since = len(agent.reports)
                    await agent.send("swap")
                    report = await agent.outcome()
                    assert (report["outcome"]["to"], report["error"]) == (new, None)
                    steps = {report["step"] for report in agent.reports[since:] if "step" in report}
                    assert {"POLICIES", "TRYING", "MOVING"} <= steps
                    for load in loads.values():
                        await load.renew()
                    await agent.until_alone()
        assert {way: load.failures for way, load in loads.items()} == {"inbound": {}, "outbound": {}}


async def test_without_policies_the_old_instance_stays_in_use() -> None:
    async with open_lab() as lab:
        lab.use_real_proxy(NAMED)
        async with lab.agent() as agent:
            await agent.until_alone()
            await agent.send("swap")
            report = await agent.outcome()
            assert report["error"]["word"] == "unreachable"
            assert (await agent.until_alone())["rules"] == "a"
