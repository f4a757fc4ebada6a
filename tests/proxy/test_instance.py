"""One proxy through the lives of several agents, as real processes on a machine of their own."""

import json
import signal
import sys

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from exclave.proxy.instance import AT_ONCE, SETTLED, Restarts
from support.agent_program import LISTEN_AT, Agent, Report
from support.mesh import ADDRESS, VIP

from .lab import GID, UID, Lab, open_lab


def pid_of(report: Report) -> int:
    (view,) = report["instances"].values()
    assert isinstance(view["pid"], int)
    return view["pid"]


def pids_of(report: Report) -> dict[str, int]:
    return {name: view["pid"] for name, view in report["instances"].items()}


def states_of(report: Report) -> dict[str, str]:
    return {name: view["state"] for name, view in report["instances"].items()}


async def until_deaf(lab: Lab, pid: int) -> None:
    """Wait until a process ignores SIGTERM: the shell of a script sets that some time after it was started."""
    while True:
        lines = (await lab.machine.must("cat", f"/proc/{pid}/status")).decode().splitlines()
        (ignored,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
        if ignored & 1 << (signal.SIGTERM - 1):
            return


async def with_standby(agent: Agent) -> Report:
    """Wait until both instances can serve; the rules point to a."""
    await agent.until_ready()
    await agent.send("rules a")
    await agent.send("standby")
    return await agent.until(lambda report: len(report["instances"]) == 2 and report["instances"]["b"]["ready"])


async def until_all_serve(agent: Agent, number: int) -> Report:
    """Wait until every instance serves this certificate; that one serves another may be reported before, or not."""
    return await agent.until(
        lambda report: report["signed"] == number and all(view["certified"] for view in report["instances"].values())
    )


def on_record(lab: Lab) -> list[str]:
    path = lab.runtime / "instances.json"
    return sorted(json.loads(path.read_text())) if path.exists() else []


async def test_the_proxy_runs_as_its_user_without_capabilities() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pid = pid_of(await agent.until_ready())
        status = await lab.status(pid)
        assert status["Uid"].split() == [str(UID)] * 4
        assert status["Gid"].split() == [str(GID)] * 4
        assert status["Groups"] == ""
        assert status["NoNewPrivs"] == "1"
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}


async def test_the_environment_names_every_captured_address() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pid = pid_of(await agent.until_ready())
        report = (await lab.machine.must("cat", f"/proc/{pid}/environ")).split(b"\0")
        assert f"LINKERD2_PROXY_INBOUND_IPS={ADDRESS},{VIP}".encode() in report


async def test_the_proxy_has_its_own_resolv_conf_and_the_host_s_is_unchanged() -> None:
    async with open_lab() as lab:
        before = await lab.machine.must("cat", "/etc/resolv.conf")
        async with lab.agent() as agent:
            pid = pid_of(await agent.until_ready())
            inside = await lab.machine.must("nsenter", f"--target={pid}", "--mount", "cat", "/etc/resolv.conf")
            assert inside == b"nameserver 169.254.77.3\noptions ndots:0\n"
            assert await lab.machine.must("cat", "/etc/resolv.conf") == before
            assert b"resolv.conf" not in await lab.machine.must("cat", "/proc/self/mountinfo")


async def test_a_renewed_certificate_is_served_without_a_restart() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        first = await agent.until_ready()
        for number in (2, 3, 4):
            await agent.send("rotate")
            await until_all_serve(agent, number)
        assert agent.reports[-1]["starts"] == 1
        assert pid_of(agent.reports[-1]) == pid_of(first)
        assert all(report["ready"] == "a" for report in agent.reports[agent.reports.index(first) :])


async def test_a_proxy_outlives_a_killed_agent_and_the_next_agent_adopts_it() -> None:
    async with open_lab() as lab:
        async with lab.agent() as agent:
            pid = pid_of(await agent.until_ready())
            await agent.kill()
        assert await lab.get("/ready") == 200
        async with lab.agent() as agent:
            report = await agent.until_ready(adopted=True)
            assert (pid_of(report), report["starts"], report["outdated"]) == (pid, 0, [])
            await agent.send("rules a")
            await agent.until(lambda report: report["instances"]["a"]["state"] == "active")
            await agent.end("stop")
        assert not await lab.runs(pid)


async def test_the_next_agent_adopts_the_proxy_after_a_hand_over() -> None:
    async with open_lab() as lab:
        async with lab.agent() as agent:
            pid = pid_of(await agent.until_ready())
            await agent.end("hand-over")
        assert await lab.runs(pid)
        assert on_record(lab) == ["a"]
        async with lab.agent() as agent:
            assert pid_of(await agent.until_ready(adopted=True)) == pid


async def test_stop_ends_the_proxy_and_leave_removes_its_files_too() -> None:
    async with open_lab() as lab:
        for word, left in (("stop", ["proxy-a.log", "resolv.conf"]), ("leave", [])):
            async with lab.agent() as agent:
                pid = pid_of(await agent.until_ready())
                await agent.end(word)
            assert not await lab.runs(pid)
            assert sorted(path.name for path in lab.runtime.iterdir()) == left


async def test_a_proxy_that_ends_is_reported_and_started_again() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pid = pid_of(await agent.until_ready())
        await lab.machine.must("kill", "-KILL", str(pid))
        lost = await agent.until(lambda report: not report["instances"])
        assert lost["ready"] is None
        report = await agent.until_ready()
        assert pid_of(report) != pid
        assert report["starts"] == 2
        problems = [report["problem"] for report in agent.reports if report["problem"]]
        assert any(text.startswith("proxy a was ended by SIGKILL: ") for text in problems)


async def test_a_restart_is_in_the_same_slot_and_without_another_check_of_the_binary() -> None:
    """The kernel's rules point to that slot. Until something listens there, connections are refused."""
    async with open_lab() as lab:
        checks = lab.scratch / "checks"
        checks.touch()
        checks.chmod(0o666)
        note = f'[ -n "$LINKERD2_PROXY_ADMIN_LISTEN_ADDR" ] || echo checked >> {checks}'
        binary = lab.write_binary("proxy-1", note, f"exec {lab.proxy}")
        async with lab.agent(binary) as agent:
            await with_standby(agent)
            await agent.send("choose b")
            await agent.send("dismiss a")
            report = await agent.until(lambda report: list(report["instances"]) == ["b"])
            checked = len(checks.read_text().splitlines())
            await lab.machine.must("kill", "-KILL", str(pids_of(report)["b"]))
            await agent.until(lambda report: not report["instances"])
            report = await agent.until(lambda report: report["ready"] is not None)
            assert (report["ready"], list(report["instances"])) == ("b", ["b"])
            assert len(checks.read_text().splitlines()) == checked
            assert await lab.get("/ready", "169.254.77.2") == 200


async def test_a_binary_that_was_replaced_before_the_first_start_is_checked_again() -> None:
    async with open_lab() as lab:
        binary = lab.write_binary("proxy-1", 'rm "$0"', "exit 64")
        lab.scratch.chmod(0o777)  # the program removes itself while it is checked
        async with lab.agent(binary) as agent:
            report = await agent.until(lambda report: bool(report.get("problem")))
            assert report["problem"].startswith(f"there is no proxy at {binary}"), report


async def test_an_adopted_proxy_that_ends_is_started_again() -> None:
    async with open_lab() as lab:
        async with lab.agent() as agent:
            pid = pid_of(await agent.until_ready())
            await agent.kill()
        async with lab.agent() as agent:
            await agent.until_ready(adopted=True)
            await lab.machine.must("kill", "-KILL", str(pid))
            await agent.until(lambda report: not report["instances"])
            report = await agent.until_ready()
            assert (pid_of(report) != pid, report["starts"]) == (True, 1)


async def test_a_proxy_that_ignores_sigterm_is_killed_in_time() -> None:
    async with open_lab() as lab:
        deaf = lab.write_binary(
            "deaf", '[ -n "$LINKERD2_PROXY_LOG_FORMAT" ] || exit 64', 'trap "" TERM', "while :; do sleep 60; done"
        )
        async with lab.agent(deaf, drain=0.1) as agent:
            pid = pid_of(await agent.until(lambda report: bool(report["instances"])))
            await until_deaf(lab, pid)
            await agent.end("leave")
            assert not await lab.runs(pid)
            assert "proxy a: did not end within 0.1 s, so it is killed" in agent.log.read_text()


async def test_the_last_line_of_a_proxy_that_ends_at_once_is_reported() -> None:
    async with open_lab() as lab:
        broken = lab.write_binary("broken", "echo 'Invalid configuration: no such network' >&2", "exit 64")
        async with lab.agent(broken) as agent:
            report = await agent.until(lambda report: "Invalid" in (report["problem"] or ""))
            assert report["problem"] == "proxy a ended with status 64: Invalid configuration: no such network"


async def test_settings_that_change_the_environment_make_it_outdated() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        assert (await agent.until_ready())["outdated"] == []
        await agent.send("policy deny")
        report = await agent.until(lambda report: report["outdated"] == ["new settings"])
        assert report["ready"] == "a"  # an outdated instance stays ready


async def test_a_slot_whose_ports_another_program_uses_is_skipped() -> None:
    async with open_lab() as lab:
        await lab.machine.must("ip", "address", "add", "169.254.77.1/32", "dev", "lo")
        other = await trio.lowlevel.open_process(
            lab.machine.command(sys.executable, "-I", str(LISTEN_AT), "169.254.77.1", "4143"),
            stdin=-1,
            stdout=-1,
            start_new_session=True,
        )
        assert other.stdout is not None
        assert await other.stdout.receive_some() == b"up\n"
        async with lab.agent() as agent:
            report = await agent.until_ready()
            assert report["ready"] == "b"
            assert await lab.get("/ready", "169.254.77.2") == 200
        assert other.stdin is not None
        await other.stdin.aclose()
        await other.wait()


# Two at once.


async def test_a_standby_instance_starts_beside_the_active_one() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        report = await with_standby(agent)
        assert states_of(report) == {"a": "active", "b": "standby"}
        assert (report["chosen"], report["ready"], on_record(lab)) == ("a", "a", ["a", "b"])
        await agent.send("standby")
        refused = await agent.until(lambda report: "refused" in report)
        assert refused["refused"] == "both instances of the proxy run already"
        await agent.send("dismiss b")
        report = await agent.until(lambda report: "b" not in report.get("instances", {"b"}))
        assert (report["ready"], report["starts"]) == ("a", 2)
        assert on_record(lab) == ["a"]


async def test_the_other_instance_can_be_chosen_and_the_old_one_dismissed() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pids = pids_of(await with_standby(agent))
        since = len(agent.reports)
        await agent.send("choose b")
        await agent.send("rules b")
        report = await agent.until(lambda report: states_of(report) == {"a": "draining", "b": "active"})
        await agent.send("dismiss a")
        report = await agent.until(lambda report: list(report["instances"]) == ["b"])
        assert None not in {report["ready"] for report in agent.reports[since:]}
        assert (report["starts"], await lab.runs(pids["a"]), await lab.runs(pids["b"])) == (2, False, True)


async def test_renewed_certificates_reach_both_instances() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        await with_standby(agent)
        await agent.send("rotate")
        report = await until_all_serve(agent, 2)
        assert len(report["instances"]) == 2


async def test_if_the_chosen_instance_dies_the_other_is_chosen_at_once() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pids = pids_of(await with_standby(agent))
        await lab.machine.must("kill", "-KILL", str(pids["a"]))
        report = await agent.until(lambda report: list(report["instances"]) == ["b"] and bool(report["ready"]))
        assert (report["ready"], report["starts"]) == ("b", 2)
        assert "proxy a was ended by SIGKILL" in agent.log.read_text()


async def test_a_standby_instance_that_dies_is_not_started_again() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pids = pids_of(await with_standby(agent))
        await lab.machine.must("kill", "-KILL", str(pids["b"]))
        report = await agent.until(lambda report: list(report["instances"]) == ["a"])
        assert (report["ready"], report["problem"], report["starts"]) == ("a", None, 2)


@pytest.mark.parametrize(("active", "chosen"), [("a", "a"), ("b", "b"), (None, "a")])
async def test_the_next_agent_adopts_both_instances_and_chooses_the_one_in_the_rules(
    active: str | None, chosen: str
) -> None:
    async with open_lab() as lab:
        async with lab.agent() as agent:
            pids = pids_of(await with_standby(agent))
            await agent.kill()
        async with lab.agent(active=active) as agent:
            report = await agent.until_ready(adopted=True)
            assert (pids_of(report), report["chosen"], report["starts"]) == (pids, chosen, 0)
            await agent.send(f"rules {chosen}")
            other = {"a": "b", "b": "a"}[chosen]
            await agent.send(f"retire {other}")
            await agent.until(lambda report: states_of(report) == {chosen: "active", other: "draining"})
            await agent.end("stop")
        assert not await lab.runs(pids["a"])
        assert not await lab.runs(pids["b"])


async def test_leave_ends_both_instances_and_removes_every_file() -> None:
    async with open_lab() as lab, lab.agent() as agent:
        pids = pids_of(await with_standby(agent))
        await agent.send("dismiss b")  # one that is on its way out is no obstacle
        await agent.end("leave")
        assert not any([await lab.runs(pid) for pid in pids.values()])
        assert list(lab.runtime.iterdir()) == []


async def test_a_replaced_binary_makes_it_outdated_and_a_touched_one_does_not() -> None:
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
            report = await agent.until(lambda report: bool(report["outdated"]))
            assert (report["outdated"], report["ready"]) == (["another binary"], "a")


async def test_an_agent_without_a_binary_reports_that_and_ends() -> None:
    async with open_lab() as lab:
        absent = lab.scratch / "absent"
        async with lab.agent(absent) as agent:
            report = await agent.until(lambda report: "error" in report)
            assert await agent.started.wait() == 32
        assert report == {
            "error": "proxy-unusable",
            "message": f"there is no proxy at {absent}",
            "hint": "install it: exclave proxy install; or set its path in config.toml: [proxy] binary",
        }


def test_the_first_restarts_are_at_once_and_then_pauses_double_from_one_second_to_a_minute() -> None:
    restarts = Restarts()
    assert [restarts.pause(0.0) for _ in range(12)] == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_after_a_longer_run_a_restart_is_at_once_again() -> None:
    restarts = Restarts()
    for _ in range(7):
        restarts.pause(0.0)
    assert [restarts.pause(SETTLED + 0.1) for _ in range(5)] == [0] * 5
    assert [restarts.pause(0.0) for _ in range(AT_ONCE)] == [0, 0, 1]


@given(st.lists(st.floats(0, 1e9)))
def test_a_proxy_is_always_started_again_within_a_minute(runs: list[float]) -> None:
    restarts = Restarts()
    for ran_for in runs:
        assert 0 <= restarts.pause(ran_for) <= 60


@given(st.lists(st.floats(0, SETTLED), min_size=20))
def test_a_proxy_that_ends_at_once_is_not_started_in_a_tight_loop(runs: list[float]) -> None:
    restarts = Restarts()
    pauses = [restarts.pause(ran_for) for ran_for in runs]
    assert pauses[:AT_ONCE] == [0.0] * AT_ONCE and min(pauses[AT_ONCE:]) == 1.0
