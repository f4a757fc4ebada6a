"""Swaps of real processes with real rules, under load both ways: none of it fails."""

from collections.abc import Callable

import pytest

from support.agent_program import Report
from support.swap_lab import PORT, Lab, Load, open_lab

CONNECTION_ENDED = "RemoteProtocolError: ", "BrokenResourceError: "


def check(loads: dict[str, Load], least: int = 20) -> None:
    """Everything was answered, both ways."""
    for way, load in loads.items():
        assert load.failures == {}, way
        assert len(load.figures["samples"]) >= least, way


async def renew(loads: dict[str, Load]) -> None:
    """Kept connections stay with the old instance until their clients are done: let them be."""
    for load in loads.values():
        await load.renew()


# Moving.


async def test_traffic_moves_there_and_back_and_nothing_fails() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        since = len(agent.reports)
        async with lab.load() as loads:
            for old, new in (("a", "b"), ("b", "a"), ("a", "b")):
                await agent.send("swap")
                report = await agent.outcome()
                assert report["error"] is None
                assert (report["outcome"]["from"], report["outcome"]["to"]) == (old, new)
                await renew(loads)
                report = await agent.until_alone()
                assert report["rules"] == new
        check(loads)
        assert report["results"] == {"completed": 3}
        shown = [report for report in agent.reports[since:] if "ready" in report]
        assert None not in {report["ready"] for report in shown}
        assert {report["trial"] for report in shown} == {None, "a", "b"}  # each was tried before it had traffic
        assert all(report["trial"] != report["rules"] for report in shown)


async def test_the_old_instance_ends_when_its_last_connection_has_ended() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        old = (await agent.until_alone())["instances"]["a"]["pid"]
        async with lab.load(workers=1, long=2) as loads:
            await agent.send("swap")
            await agent.outcome()
            report = await agent.until(lambda report: report.get("clients") == 4)  # two each way, and none that are new
            assert (report["step"], report["instances"]["a"]["state"]) == ("DRAINING", "draining")
            assert await lab.runs(old)
            await renew(loads)
            await agent.until_alone()
            assert not await lab.runs(old)
        check(loads, 1)


async def test_the_old_instance_is_ended_at_the_bound_although_a_connection_is_open() -> None:
    async with open_lab() as lab, lab.agent(bound=2.0) as agent:
        await agent.until_alone()
        async with lab.load(workers=1, long=1) as loads:
            await agent.send("swap")
            await agent.outcome()
            await agent.until_alone()
        for way, load in loads.items():
            # Ended between two requests, announced or not; a client that has just sent the next one meets a reset.
            assert load.figures["broken"] == 1, way
            assert all(failure.startswith(CONNECTION_ENDED) for failure in load.figures["failures"]), way
            assert load.figures["failed"] <= 1, way


async def test_a_swap_waits_for_an_instance_that_drains_no_longer_than_the_drain_time() -> None:
    async with open_lab() as lab, lab.agent(bound=3600.0, drain=1.0) as agent:
        await agent.until_alone()
        async with lab.load(workers=1, long=1) as loads:
            for _ in range(2):
                await agent.send("swap")
                outcome = await agent.outcome()
                assert outcome["error"] is None
        for way, load in loads.items():
            assert all(failure.startswith(CONNECTION_ENDED) for failure in load.figures["failures"]), way


async def test_a_forced_swap_does_not_wait_for_a_draining_instance() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        async with lab.load(workers=1, long=1):
            await agent.send("swap")
            await agent.until(lambda report: report.get("clients") == 2)
            await agent.send("swap-forced")
            report = await agent.outcome()
            assert (report["outcome"]["to"], report["error"]) == ("a", None)


# Reasons.


async def test_a_replaced_binary_is_a_reason_for_a_swap() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        async with lab.load(long=0) as loads:
            lab.replace_binary()
            await agent.until(lambda report: report.get("outdated") == ["another binary"])
            await agent.until(lambda report: report.get("step") == "DRAINING")
            report = await agent.until_alone()
            assert (report["rules"], report["results"], report["outdated"]) == ("b", {"completed": 1}, [])
        check(loads)


async def test_new_ports_are_captured_at_once_and_removed_ports_with_the_swap() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        async with lab.load(long=0) as loads:
            await agent.send(f"ports {PORT},8081")
            report = await agent.until(lambda report: report["in_place"] and report["ports"] == [PORT, 8081])
            assert report["rules"] == "a"  # any proxy looks a port up that is not in its settings
            await agent.until(lambda report: report.get("step") == "DRAINING")
            assert (await agent.until_alone())["rules"] == "b"
            await agent.send(f"ports {PORT}")
            report = await agent.until(lambda report: report["rules"] == "a" and report["in_place"])
            assert report["ports"] == [PORT]
        check(loads)
        narrowed = [report for report in agent.reports if report.get("ports") == [PORT, 8081] and report["in_place"]]
        assert {report["rules"] for report in narrowed} == {"a", "b"}


async def test_a_proxy_over_its_memory_limit_is_swapped_once() -> None:
    async with open_lab() as lab, lab.agent(limit=1000) as agent:
        await agent.until(lambda report: report["outdated"] == ["its memory"])
        report = await agent.until(lambda report: report["results"] == {"completed": 1})
        report = await agent.until(lambda report: report["step"] is None and report["outdated"] == ["its memory"])
        assert (report["rules"], report["results"]) == ("b", {"completed": 1})


# Aborted: each row breaks one thing; the old instance serves, the new one is gone, and both are reported.


def no_policies(lab: Lab) -> None:
    lab.end_controllers()


def ends_at_once(lab: Lab) -> None:
    lab.write_binary(
        '[ -n "$LINKERD2_PROXY_LOG_FORMAT" ] || exit 64', "echo 'Invalid configuration: no' >&2", "exit 64"
    )


def is_no_program(lab: Lab) -> None:
    lab.binary.unlink()


def does_not_forward(lab: Lab) -> None:
    """A proxy that sends what goes out somewhere else."""
    text = lab.binary.read_text().replace(
        "from exclave_sandbox.standin.main import main",
        "from exclave_sandbox.standin import forward\n"
        "forward.original_destination = lambda stream: ('169.254.77.4', 9)\n"
        "from exclave_sandbox.standin.main import main",
    )
    newer = lab.scratch / "proxy-lost"
    newer.write_text(text)
    newer.chmod(0o755)
    newer.rename(lab.binary)


ABORTS: dict[str, tuple[Callable[[Lab], None], str, str]] = {
    "Linkerd's policy controller is away": (
        no_policies,
        "unreachable",
        "the policies of the new proxy have not arrived within 10 s: Linkerd's policy controller does not answer",
    ),
    "the new proxy ends at once": (
        ends_at_once,
        "proxy-unusable",
        "proxy b ended with status 64: Invalid configuration: no",
    ),
    "there is no proxy any more": (is_no_program, "proxy-unusable", "there is no proxy at"),
    "it does not reach where traffic was going": (
        does_not_forward,
        "proxy-unusable",
        "a trial connection to 169.254.77.4 ",
    ),
}


@pytest.mark.parametrize(("break_it", "word", "message"), ABORTS.values(), ids=ABORTS)
async def test_an_aborted_swap_leaves_the_old_instance_in_use(
    break_it: Callable[[Lab], None], word: str, message: str
) -> None:
    async with open_lab() as lab, lab.agent() as agent:
        first = await agent.until_alone()
        async with lab.load(long=1) as loads:
            break_it(lab)
            await agent.send("swap")
            report = await agent.outcome()
            assert report["error"]["word"] == word
            assert report["error"]["message"].startswith(message)
            report = await agent.until_alone()
            assert report["instances"] == first["instances"]
            assert (report["rules"], report["trial"], report["results"]) == ("a", None, {"aborted": 1})
            assert report["problem"] == f"a swap of the proxy (asked for) was aborted: {agent_error(agent.reports)}"
            assert await lab.proxies() == [first["instances"]["a"]["pid"]]
        check(loads, 1)


def agent_error(report: list[Report]) -> str:
    (error,) = [one["error"]["message"] for one in report if one.get("error")]
    return str(error)


async def test_an_aborted_automatic_swap_is_tried_again_and_clears_the_problem() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        whole = lab.binary.read_text()
        ends_at_once(lab)
        await agent.until(lambda report: report.get("results") == {"aborted": 1})
        lab.binary.write_text(whole + "# mended\n")
        report = await agent.until(lambda report: report.get("results") == {"aborted": 1, "completed": 1})
        assert (report["rules"], report["problem"]) == ("b", None)


async def test_a_forced_swap_needs_no_policy_controller() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        lab.end_controllers()
        await agent.send("swap-forced")
        report = await agent.outcome()
        assert (report["outcome"]["to"], report["error"]) == ("b", None)
        assert "have not arrived, but it is forced: no trial is made" in agent.log.read_text()


# Processes that die in the middle.


@pytest.mark.parametrize("step", ["CERTIFYING", "POLICIES", "TRYING"])
async def test_if_the_new_instance_is_killed_the_old_one_goes_on(step: str) -> None:
    async with open_lab() as lab, lab.agent() as agent:
        first = await agent.until_alone()
        async with lab.load(long=1) as loads:
            if step == "POLICIES":
                lab.end_controllers()  # it stays in that step for a while
            await agent.send("swap")
            report = await agent.until(lambda report: report.get("step") == step and "b" in report["instances"])
            await lab.vm.run("kill", "-KILL", str(report["instances"]["b"]["pid"]))
            report = await agent.outcome()
            if report["error"] is None:
                pytest.skip("it was faster than the kill")
            assert report["error"]["message"].startswith(
                ("proxy b was ended by SIGKILL", "a trial connection to 169.254.77.4 ")
            )
            assert (await agent.until_alone())["instances"] == first["instances"]
        check(loads, 1)


async def test_if_the_old_instance_is_killed_the_new_one_takes_over() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        first = await agent.until_alone()
        lab.end_controllers()  # so that it stays where it waits for policies
        await agent.send("swap")
        await agent.until(lambda report: report.get("step") == "POLICIES")
        await lab.vm.must("kill", "-KILL", str(first["instances"]["a"]["pid"]))
        report = await agent.until(lambda report: report["rules"] == report["ready"] == "b" and report["in_place"])
        report = await agent.outcome()
        assert report["error"] is None
        assert list((await agent.until_alone())["instances"]) == ["b"]


async def test_certificates_renewed_during_a_swap_reach_both_instances() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        async with lab.load(long=1) as loads:
            for _ in range(2):
                await agent.send("rotate")
                await agent.send("swap")
                await agent.send("rotate")
                assert (await agent.outcome())["error"] is None
                await renew(loads)
                await agent.until_alone()
        check(loads)
