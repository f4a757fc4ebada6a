"""Swaps of real processes with real rules, under load both ways: none of it fails."""

from collections.abc import Callable

import pytest

from support.swap_lab import PORT, Lab, Load, Told, open_lab


def check(loads: dict[str, Load], least: int = 20) -> None:
    """Everything was answered, both ways."""
    for way, load in loads.items():
        assert load.figures["failures"] == {}, way
        assert load.figures["new"] >= least, way


async def renew(loads: dict[str, Load]) -> None:
    """Kept connections stay with the old instance until their clients are done: let them be."""
    for load in loads.values():
        await load.renew()


# Moving.


async def test_traffic_moves_there_and_back_and_nothing_fails() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        since = len(agent.told)
        async with lab.load() as loads:
            for old, new in (("a", "b"), ("b", "a"), ("a", "b")):
                await agent.say("swap")
                told = await agent.outcome()
                assert told["error"] is None
                assert (told["outcome"]["from"], told["outcome"]["to"]) == (old, new)
                await renew(loads)
                told = await agent.until_alone()
                assert told["rules"] == new
        check(loads)
        assert told["results"] == {"completed": 3}
        shown = [told for told in agent.told[since:] if "ready" in told]
        assert None not in {told["ready"] for told in shown}
        assert {told["trial"] for told in shown} == {None, "a", "b"}  # each was tried before it had traffic
        assert all(told["trial"] != told["rules"] for told in shown)


async def test_the_old_one_stays_for_whoever_keeps_a_connection_and_ends_when_the_last_one_is_done() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        old = (await agent.until_alone())["instances"]["a"]["pid"]
        async with lab.load(workers=1, long=2) as loads:
            await agent.say("swap")
            await agent.outcome()
            told = await agent.until(lambda told: told.get("clients") == 4)  # two each way, and none that are new
            assert (told["step"], told["instances"]["a"]["state"]) == ("DRAINING", "draining")
            assert await lab.runs(old)
            await renew(loads)
            await agent.until_alone()
            assert not await lab.runs(old)
        check(loads, 1)


async def test_the_old_one_is_ended_at_the_bound_though_a_connection_is_kept() -> None:
    async with open_lab() as lab, lab.agent(bound=2.0) as agent:
        await agent.until_alone()
        async with lab.load(workers=1, long=1) as loads:
            await agent.say("swap")
            await agent.outcome()
            await agent.until_alone()
        for way, load in loads.items():
            (failure,) = load.figures["failures"]
            # Ended between two requests, announced or not; whoever had just sent the next one meets a reset.
            exit_messages = ("kept: NotConnected", "kept: RemoteDisconnected", "kept: ConnectionResetError")
            assert failure.startswith(exit_messages), way


async def test_somebody_who_insists_does_not_wait_for_what_drains() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        async with lab.load(workers=1, long=1):
            await agent.say("swap")
            await agent.until(lambda told: told.get("clients") == 2)
            await agent.say("swap-forced")
            told = await agent.outcome()
            assert (told["outcome"]["to"], told["error"]) == ("a", None)


# Reasons.


async def test_a_binary_that_was_replaced_is_a_reason() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        async with lab.load(long=0) as loads:
            lab.replace_binary()
            await agent.until(lambda told: told.get("outdated") == ["another binary"])
            await agent.until(lambda told: told.get("step") == "DRAINING")
            told = await agent.until_alone()
            assert (told["rules"], told["results"], told["outdated"]) == ("b", {"completed": 1}, [])
        check(loads)


async def test_new_ports_are_captured_at_once_and_gone_ones_with_the_swap() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        async with lab.load(long=0) as loads:
            await agent.say(f"ports {PORT},8081")
            told = await agent.until(lambda told: told["in_place"] and told["ports"] == [PORT, 8081])
            assert told["rules"] == "a"  # any proxy looks a port up that it was not told of
            await agent.until(lambda told: told.get("step") == "DRAINING")
            assert (await agent.until_alone())["rules"] == "b"
            await agent.say(f"ports {PORT}")
            told = await agent.until(lambda told: told["rules"] == "a" and told["in_place"])
            assert told["ports"] == [PORT]
        check(loads)
        narrowed = [told for told in agent.told if told.get("ports") == [PORT, 8081] and told["in_place"]]
        assert {told["rules"] for told in narrowed} == {"a", "b"}


async def test_a_proxy_over_its_limit_is_swapped_once_and_not_again_and_again() -> None:
    async with open_lab() as lab, lab.agent(limit=1000) as agent:
        await agent.until(lambda told: told["outdated"] == ["its memory"])
        told = await agent.until(lambda told: told["results"] == {"completed": 1})
        told = await agent.until(lambda told: told["step"] is None and told["outdated"] == ["its memory"])
        assert (told["rules"], told["results"]) == ("b", {"completed": 1})


# Giving up: each row breaks one thing; the old instance serves, the new one is gone, and both are told.


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
async def test_a_swap_is_given_up_and_the_old_one_goes_on(
    break_it: Callable[[Lab], None], word: str, message: str
) -> None:
    async with open_lab() as lab, lab.agent() as agent:
        first = await agent.until_alone()
        async with lab.load(long=1) as loads:
            break_it(lab)
            await agent.say("swap")
            told = await agent.outcome()
            assert told["error"]["word"] == word
            assert told["error"]["message"].startswith(message)
            told = await agent.until_alone()
            assert told["instances"] == first["instances"]
            assert (told["rules"], told["trial"], told["results"]) == ("a", None, {"aborted": 1})
            assert told["problem"] == f"a swap of the proxy (asked for) was aborted: {agent_error(agent.told)}"
            assert await lab.proxies() == [first["instances"]["a"]["pid"]]
        check(loads, 1)


def agent_error(told: list[Told]) -> str:
    (error,) = [one["error"]["message"] for one in told if one.get("error")]
    return str(error)


async def test_what_failed_by_itself_is_tried_again_and_then_no_problem_is_left() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        whole = lab.binary.read_text()
        ends_at_once(lab)
        await agent.until(lambda told: told.get("results") == {"aborted": 1})
        lab.binary.write_text(whole + "# mended\n")
        told = await agent.until(lambda told: told.get("results") == {"aborted": 1, "completed": 1})
        assert (told["rules"], told["problem"]) == ("b", None)


async def test_somebody_who_insists_has_a_swap_without_linkerds_policy_controller() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        lab.end_controllers()
        await agent.say("swap-forced")
        told = await agent.outcome()
        assert (told["outcome"]["to"], told["error"]) == ("b", None)
        assert "have not arrived, but it is forced: no trial is made" in agent.log.read_text()


# Processes that die in the middle.


@pytest.mark.parametrize("step", ["CERTIFYING", "POLICIES", "TRYING"])
async def test_the_new_one_is_killed_and_the_old_one_goes_on(step: str) -> None:
    async with open_lab() as lab, lab.agent() as agent:
        first = await agent.until_alone()
        async with lab.load(long=1) as loads:
            if step == "POLICIES":
                lab.end_controllers()  # it stays in that step for a while
            await agent.say("swap")
            told = await agent.until(lambda told: told.get("step") == step and "b" in told["instances"])
            await lab.vm.run("kill", "-KILL", str(told["instances"]["b"]["pid"]))
            told = await agent.outcome()
            if told["error"] is None:
                pytest.skip("it was faster than the kill")
            assert told["error"]["message"].startswith(
                ("proxy b was ended by SIGKILL", "a trial connection to 169.254.77.4 ")
            )
            assert (await agent.until_alone())["instances"] == first["instances"]
        check(loads, 1)


async def test_the_old_one_is_killed_and_the_new_one_is_gone_on_with() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        first = await agent.until_alone()
        lab.end_controllers()  # so that it stays where it waits for policies
        await agent.say("swap")
        await agent.until(lambda told: told.get("step") == "POLICIES")
        await lab.vm.must("kill", "-KILL", str(first["instances"]["a"]["pid"]))
        told = await agent.until(lambda told: told["rules"] == told["ready"] == "b" and told["in_place"])
        told = await agent.outcome()
        assert told["error"] is None
        assert list((await agent.until_alone())["instances"]) == ["b"]


async def test_certificates_that_are_renewed_meanwhile_reach_both() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await agent.until_alone()
        async with lab.load(long=1) as loads:
            for _ in range(2):
                await agent.say("rotate")
                await agent.say("swap")
                await agent.say("rotate")
                assert (await agent.outcome())["error"] is None
                await renew(loads)
                await agent.until_alone()
        check(loads)
