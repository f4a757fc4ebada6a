"""Linkerd's inbound policies at the proxy's admin port: whom it answers, and what the agent makes of that.

The real linkerd2-proxy and the stand-in have the same table. EXCLAVE_LINKERD2_PROXY names the real one's binary;
no package registry has it, so without it the real one's rows are skipped. The policies are the proxy's default,
and the one that Linkerd's policy controller then sends for a port that no Server selects.
"""

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from support.agent_program import Agent
from support.swap_lab import Lab
from support.swap_lab import open_lab as open_swap_lab

from .lab import open_lab

NAMED = os.environ.get("EXCLAVE_LINKERD2_PROXY", "")
needs_real = pytest.mark.skipif(
    not NAMED, reason="needs the real linkerd2-proxy: EXCLAVE_LINKERD2_PROXY=/path/to/the/binary"
)
both = pytest.mark.parametrize(
    "is_real", [pytest.param(True, marks=needs_real, id="the real one"), pytest.param(False, id="the stand-in")]
)

LINK, LOOPBACK = "169.254.77.1", "127.0.0.1"
"""Addresses to ask from: the first is what the kernel would choose."""

#                       before any policy has come, and after: from the loopback address, from the link's
TABLE = {
    "deny": ((404, 404), (200, 403)),
    "all-authenticated": ((403, 403), (200, 403)),
    "cluster-authenticated": ((403, 403), (200, 403)),
    "cluster-unauthenticated": ((403, 403), (200, 403)),
    "all-unauthenticated": ((200, 200), (200, 200)),
}


PROGRAM = Path(__file__).with_name("programs") / "query_admin.py"


async def admin_statuses(lab: Lab) -> list[tuple[int, int]]:
    """The statuses of `/ready` and of `/metrics`, for requests from both addresses."""
    words = (await lab.vm.must(sys.executable, "-I", str(PROGRAM), LINK, LOOPBACK, LINK)).split()
    return [(int(words[0]), int(words[2])), (int(words[1]), int(words[3]))]


async def until_answered(lab: Lab, answers: tuple[int, int]) -> None:
    with trio.fail_after(20):
        while await admin_statuses(lab) != [answers, answers]:  # noqa: ASYNC110  the arrival of a policy is no event
            await trio.sleep(0.2)


async def until_judged(agent: Agent, why: str) -> None:
    with trio.fail_after(20):
        while f" why={why}]" not in agent.log.read_text().rpartition("data path: ")[2].partition("\n")[0]:  # noqa: ASYNC110  a line in a log is no event
            await trio.sleep(0.1)


def start_controllers(lab: Lab, policy: str, *, is_real: bool) -> None:
    if is_real:
        lab.start_real_controllers(policy)
    else:
        lab.start_controllers()


@asynccontextmanager
async def alone(is_real: bool, policy: str) -> AsyncIterator[tuple[Lab, Agent]]:
    """A machine whose proxy has traffic, though Linkerd is away."""
    async with open_swap_lab() as lab:
        lab.end_controllers()
        if is_real:
            lab.use_real_proxy(NAMED)
        async with lab.agent(policy=policy) as agent:
            await agent.until_alone()
            yield lab, agent


@both
@pytest.mark.parametrize(("policy", "answers"), TABLE.items(), ids=TABLE)
async def test_loopback_is_admitted_once_a_policy_has_arrived_and_the_proxy_is_ready_before(
    is_real: bool, policy: str, answers: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    before, after = answers
    async with alone(is_real, policy) as (lab, _):
        assert await admin_statuses(lab) == [before, before]
        start_controllers(lab, policy, is_real=is_real)
        await until_answered(lab, after)


@both
async def test_renewed_certificates_are_proven_although_requests_are_denied(is_real: bool) -> None:
    async with open_lab() as lab:
        binary = Path(shutil.copy(NAMED, lab.scratch / "linkerd2-proxy")) if is_real else lab.proxy
        binary.chmod(0o755)
        async with lab.agent(binary, policy="deny") as agent:
            await agent.until_ready()
            assert await lab.get("/ready") == 404
            for _ in range(2):
                await agent.send("rotate")
                await agent.until(lambda report: all(view["certified"] for view in report["instances"].values()))
            assert agent.reports[-1]["starts"] == 1


@both
async def test_a_swap_waits_until_the_policies_have_arrived(is_real: bool) -> None:
    async with alone(is_real, "deny") as (lab, agent):
        start_controllers(lab, "deny", is_real=is_real)
        await until_answered(lab, (200, 403))
        await agent.send("swap")
        assert (await agent.outcome())["error"] is None
        assert (await agent.until_alone())["rules"] == "b"


@needs_real
async def test_without_a_route_for_us_the_trial_proves_the_proxy_and_linkerd_counts_as_available() -> None:
    async with alone(True, "all-unauthenticated") as (lab, agent):
        await until_judged(agent, "control-plane-away")
        lab.start_real_controllers("unrouted")
        await until_judged(agent, "none")  # by the kernel's connections
        report = await agent.until(lambda report: report.get("instances", {}).get("a", {}).get("refused", False))
        assert (report["ready"], report["rules"]) == ("a", "a")
        await agent.send("swap")
        assert (await agent.outcome())["error"] is None
        await agent.until_alone()
        await until_judged(agent, "none")
        lab.end_controllers()
        await agent.until(lambda report: report.get("instances", {}).get("b", {}).get("refused", False))
        await agent.send("swap")
        assert (await agent.outcome())["error"]["message"].startswith("a trial connection to 169.254.77.4 ")
