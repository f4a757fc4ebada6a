"""One proxy through the lives of several agents, as real processes on a machine of their own."""

import json

import pytest
import trio

from exclave.proxy.instance import describe_end
from support.member import ADDRESS, VIP

from .lab import GID, UID, Lab, Told, open_lab

pytestmark = pytest.mark.root


def pid_of(told: Told) -> int:
    (view,) = told["instances"].values()
    assert isinstance(view["pid"], int)
    return view["pid"]


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
        for _ in range(3):
            await agent.say("rotate")
            # What the metrics say is told only when it changes: not ours any more, then ours.
            await agent.until(lambda told: all(view["certified"] for view in told["instances"].values()))
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
            assert (pid_of(told), told["starts"], told["outdated"]) == (pid, 0, False)
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
        assert (await agent.until_ready())["outdated"] is False
        await agent.say("retell")
        told = await agent.until(lambda told: bool(told["outdated"]))
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


async def test_an_agent_with_nothing_to_run_says_what_is_missing_and_ends() -> None:
    async with open_lab() as lab:
        absent = lab.scratch / "absent"
        async with lab.agent(absent) as agent:
            told = await agent.until(lambda told: "error" in told)
            assert await agent.started.wait() == 32
        assert told == {
            "error": "proxy-unusable",
            "message": f"there is no proxy at {absent}",
            "hint": "install linkerd2-proxy there, or say where it is in config.toml: [proxy] binary",
        }


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (-15, "was ended by SIGTERM"),
        (None, "ended (an earlier agent's child: nobody can know how)"),
    ],
)
def test_an_end_in_words(status: int | None, words: str) -> None:
    assert describe_end(status) == words
