"""One proxy through the lives of several agents, as real processes on a machine of their own."""

import json
import signal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from exclave.kit.tasks.backoff import Attempts
from exclave.proxy.instance import RESTARTS, SETTLED
from support.mesh import ADDRESS, VIP

from .lab import GID, UID, Agent, Lab, Told, open_lab


def pid_of(told: Told) -> int:
    (view,) = told["instances"].values()
    assert isinstance(view["pid"], int)
    return view["pid"]


def pids_of(told: Told) -> dict[str, int]:
    return {name: view["pid"] for name, view in told["instances"].items()}


def states_of(told: Told) -> dict[str, str]:
    return {name: view["state"] for name, view in told["instances"].items()}


async def until_deaf(lab: Lab, pid: int) -> None:
    """Wait until a process ignores SIGTERM: the shell of a script sets that some time after it was started."""
    while True:
        lines = (await lab.machine.must("cat", f"/proc/{pid}/status")).decode().splitlines()
        (ignored,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
        if ignored & 1 << (signal.SIGTERM - 1):
            return


async def with_standby(agent: Agent) -> Told:
    """Wait until both instances can serve; the rules point to a."""
    await agent.until_ready()
    await agent.say("rules a")
    await agent.say("standby")
    return await agent.until(lambda told: len(told["instances"]) == 2 and told["instances"]["b"]["ready"])


async def until_all_serve(agent: Agent, number: int) -> Told:
    """Wait until every instance serves this certificate; that one serves another may be told before, or not."""
    return await agent.until(
        lambda told: told["signed"] == number and all(view["certified"] for view in told["instances"].values())
    )


def on_record(lab: Lab) -> list[str]:
    path = lab.runtime / "instances.json"
    return sorted(json.loads(path.read_text())) if path.exists() else []


async def test_the_proxy_runs_as_a_user_that_can_do_nothing_else() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pid = pid_of(await agent.until_ready())
        status = await lab.status(pid)
        assert status["Uid"].split() == [str(UID)] * 4
        assert status["Gid"].split() == [str(GID)] * 4
        assert status["Groups"] == ""
        assert status["NoNewPrivs"] == "1"
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}


async def test_the_proxy_is_told_of_every_address_that_is_captured() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pid = pid_of(await agent.until_ready())
        told = (await lab.machine.must("cat", f"/proc/{pid}/environ")).split(b"\0")
        assert f"LINKERD2_PROXY_INBOUND_IPS={ADDRESS},{VIP}".encode() in told


async def test_the_proxy_has_a_resolv_conf_of_its_own_and_the_host_keeps_its() -> None:
    async with open_lab() as lab:
        before = await lab.machine.must("cat", "/etc/resolv.conf")
        async with lab.agent() as agent:
            pid = pid_of(await agent.until_ready())
            inside = await lab.machine.must("nsenter", f"--target={pid}", "--mount", "cat", "/etc/resolv.conf")
            assert inside == b"nameserver 169.254.77.3\noptions ndots:0\n"
            assert await lab.machine.must("cat", "/etc/resolv.conf") == before
            assert b"resolv.conf" not in await lab.machine.must("cat", "/proc/self/mountinfo")


async def test_a_renewed_certificate_is_taken_without_a_restart() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        first = await agent.until_ready()
        for number in (2, 3, 4):
            await agent.say("rotate")
            await until_all_serve(agent, number)
        assert agent.told[-1]["starts"] == 1
        assert pid_of(agent.told[-1]) == pid_of(first)
        assert all(told["ready"] == "a" for told in agent.told[agent.told.index(first) :])


async def test_a_proxy_outlives_an_agent_that_was_killed_and_the_next_one_adopts_it() -> None:
    async with open_lab() as lab:
        async with lab.agent() as agent:
            pid = pid_of(await agent.until_ready())
            await agent.kill()
        assert await lab.get("/ready") == 200
        async with lab.agent() as agent:
            told = await agent.until_ready(adopted=True)
            assert (pid_of(told), told["starts"], told["outdated"]) == (pid, 0, [])
            await agent.say("rules a")
            await agent.until(lambda told: told["instances"]["a"]["state"] == "active")
            await agent.end("stop")
        assert not await lab.runs(pid)


async def test_a_hand_over_leaves_it_to_the_next_agent() -> None:
    async with open_lab() as lab:
        async with lab.agent() as agent:
            pid = pid_of(await agent.until_ready())
            await agent.end("hand-over")
        assert await lab.runs(pid)
        assert on_record(lab) == ["a"]
        async with lab.agent() as agent:
            assert pid_of(await agent.until_ready(adopted=True)) == pid


async def test_stop_ends_it_and_leave_forgets_it() -> None:
    async with open_lab() as lab:
        for word, left in (("stop", ["proxy-a.log", "resolv.conf"]), ("leave", [])):
            async with lab.agent() as agent:
                pid = pid_of(await agent.until_ready())
                await agent.end(word)
            assert not await lab.runs(pid)
            assert sorted(path.name for path in lab.runtime.iterdir()) == left


async def test_one_that_ends_is_started_again_and_its_end_is_told() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pid = pid_of(await agent.until_ready())
        await lab.machine.must("kill", "-KILL", str(pid))
        lost = await agent.until(lambda told: not told["instances"])
        assert lost["ready"] is None
        told = await agent.until_ready()
        assert pid_of(told) != pid
        assert told["starts"] == 2
        problems = [told["problem"] for told in agent.told if told["problem"]]
        assert any(text.startswith("proxy a was ended by SIGKILL: ") for text in problems)


async def test_an_adopted_one_that_ends_is_started_again_too() -> None:
    async with open_lab() as lab:
        async with lab.agent() as agent:
            pid = pid_of(await agent.until_ready())
            await agent.kill()
        async with lab.agent() as agent:
            await agent.until_ready(adopted=True)
            await lab.machine.must("kill", "-KILL", str(pid))
            await agent.until(lambda told: not told["instances"])
            told = await agent.until_ready()
            assert (pid_of(told) != pid, told["starts"]) == (True, 1)


async def test_one_that_does_not_listen_to_sigterm_is_killed_after_its_time() -> None:
    async with open_lab() as lab:
        deaf = lab.write_binary(
            "deaf", '[ -n "$LINKERD2_PROXY_LOG_FORMAT" ] || exit 64', 'trap "" TERM', "while :; do sleep 60; done"
        )
        async with lab.agent(deaf, drain=0.1) as agent:
            pid = pid_of(await agent.until(lambda told: bool(told["instances"])))
            await until_deaf(lab, pid)
            await agent.end("leave")
            assert not await lab.runs(pid)
            assert "proxy a: did not end within 0.1 s, so it is killed" in agent.log.read_text()


async def test_one_that_ends_at_once_is_quoted() -> None:
    async with open_lab() as lab:
        broken = lab.write_binary("broken", "echo 'Invalid configuration: no such network' >&2", "exit 64")
        async with lab.agent(broken) as agent:
            told = await agent.until(lambda told: "Invalid" in (told["problem"] or ""))
            assert told["problem"] == "proxy a ended with status 64: Invalid configuration: no such network"


async def test_settings_that_mean_another_environment_make_it_outdated() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        assert (await agent.until_ready())["outdated"] == []
        await agent.say("retell")
        told = await agent.until(lambda told: told["outdated"] == ["new settings"])
        assert told["ready"] == "a"  # outdated is no reason to take traffic away


async def test_a_place_that_others_have_taken_is_left_to_them() -> None:
    async with open_lab() as lab:
        await lab.machine.must("ip", "address", "add", "169.254.77.1/32", "dev", "lo")
        listen = "import socket\ns = socket.create_server(('169.254.77.1', 4143))\nprint('up', flush=True)\ninput()"
        other = await trio.lowlevel.open_process(
            lab.machine.command("python3", "-I", "-c", listen), stdin=-1, stdout=-1, start_new_session=True
        )
        assert other.stdout is not None
        assert await other.stdout.receive_some() == b"up\n"
        async with lab.agent() as agent:
            told = await agent.until_ready()
            assert told["ready"] == "b"
            assert await lab.get("/ready", "169.254.77.2") == 200
        assert other.stdin is not None
        await other.stdin.aclose()
        await other.wait()


# Two at once.


async def test_another_stands_by_in_the_other_place_and_touches_nothing_that_serves() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        told = await with_standby(agent)
        assert states_of(told) == {"a": "active", "b": "standby"}
        assert (told["chosen"], told["ready"], on_record(lab)) == ("a", "a", ["a", "b"])
        await agent.say("standby")
        refused = await agent.until(lambda told: "refused" in told)
        assert refused["refused"] == "both instances of the proxy run already"
        await agent.say("dismiss b")
        told = await agent.until(lambda told: "b" not in told.get("instances", {"b"}))
        assert (told["ready"], told["starts"]) == ("a", 2)
        assert on_record(lab) == ["a"]


async def test_traffic_is_chosen_for_the_other_and_the_old_one_ends_when_told() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pids = pids_of(await with_standby(agent))
        since = len(agent.told)
        await agent.say("choose b")
        await agent.say("rules b")
        told = await agent.until(lambda told: states_of(told) == {"a": "draining", "b": "active"})
        await agent.say("dismiss a")
        told = await agent.until(lambda told: list(told["instances"]) == ["b"])
        assert None not in {told["ready"] for told in agent.told[since:]}
        assert (told["starts"], await lab.runs(pids["a"]), await lab.runs(pids["b"])) == (2, False, True)


async def test_certificates_reach_both() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await with_standby(agent)
        await agent.say("rotate")
        told = await until_all_serve(agent, 2)
        assert len(told["instances"]) == 2


async def test_when_the_chosen_one_dies_the_other_is_chosen_at_once() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pids = pids_of(await with_standby(agent))
        await lab.machine.must("kill", "-KILL", str(pids["a"]))
        told = await agent.until(lambda told: list(told["instances"]) == ["b"] and bool(told["ready"]))
        assert (told["ready"], told["starts"]) == ("b", 2)
        assert "proxy a was ended by SIGKILL" in agent.log.read_text()


async def test_when_the_other_dies_nothing_is_started_in_its_place() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pids = pids_of(await with_standby(agent))
        await lab.machine.must("kill", "-KILL", str(pids["b"]))
        told = await agent.until(lambda told: list(told["instances"]) == ["a"])
        assert (told["ready"], told["problem"], told["starts"]) == ("a", None, 2)


@pytest.mark.parametrize(("active", "chosen"), [("a", "a"), ("b", "b"), ("", "a")])
async def test_the_next_agent_adopts_both_and_chooses_where_the_rules_point(active: str, chosen: str) -> None:
    async with open_lab() as lab:
        async with lab.agent() as agent:
            pids = pids_of(await with_standby(agent))
            await agent.kill()
        async with lab.agent(active=active) as agent:
            told = await agent.until_ready(adopted=True)
            assert (pids_of(told), told["chosen"], told["starts"]) == (pids, chosen, 0)
            await agent.say(f"rules {chosen}")
            other = {"a": "b", "b": "a"}[chosen]
            await agent.say(f"retire {other}")
            await agent.until(lambda told: states_of(told) == {chosen: "active", other: "draining"})
            await agent.end("stop")
        assert not await lab.runs(pids["a"])
        assert not await lab.runs(pids["b"])


async def test_leaving_ends_both_and_leaves_no_file() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pids = pids_of(await with_standby(agent))
        await agent.say("dismiss b")  # one that is on its way out is no obstacle
        await agent.end("leave")
        assert not any([await lab.runs(pid) for pid in pids.values()])
        assert list(lab.runtime.iterdir()) == []


async def test_a_binary_that_was_replaced_makes_it_outdated_and_one_that_was_touched_does_not() -> None:
    async with open_lab() as lab:
        binary = lab.write_binary("proxy-1", *lab.proxy.read_text().splitlines()[1:])
        binary.write_text(lab.proxy.read_text())
        async with lab.agent(binary) as agent:
            assert (await agent.until_ready())["outdated"] == []
            binary.touch()
            other = lab.scratch / "proxy-2"
            other.write_text(lab.proxy.read_text() + "# newer\n")
            other.chmod(0o755)
            other.rename(binary)
            told = await agent.until(lambda told: bool(told["outdated"]))
            assert (told["outdated"], told["ready"]) == (["another binary"], "a")


async def test_an_agent_with_nothing_to_run_says_what_is_missing_and_ends() -> None:
    async with open_lab() as lab:
        absent = lab.scratch / "absent"
        async with lab.agent(absent) as agent:
            told = await agent.until(lambda told: "error" in told)
            assert await agent.started.wait() == 32
        assert told == {
            "error": "proxy-unusable",
            "message": f"there is no proxy at {absent}",
            "hint": "install linkerd2-proxy there, or set its path in config.toml: [proxy] binary",
        }


def test_pauses_between_restarts_double_from_one_second_to_a_minute() -> None:
    attempts = Attempts(settled=SETTLED)
    assert [attempts.failed(RESTARTS, 0.0) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_run_of_more_than_a_minute_starts_the_pauses_again() -> None:
    attempts = Attempts(settled=SETTLED)
    for _ in range(7):
        attempts.failed(RESTARTS, 0.0)
    assert attempts.failed(RESTARTS, 0.0, ran_for=SETTLED + 0.1) == 1
    assert attempts.failed(RESTARTS, 0.0) == 2


@given(st.lists(st.floats(0, 1e9)))
def test_a_proxy_is_always_started_again_within_a_minute(runs: list[float]) -> None:
    attempts = Attempts(settled=SETTLED)
    for ran_for in runs:
        assert 1 <= attempts.failed(RESTARTS, 0.0, ran_for=ran_for) <= 60
