"""The redirect in the real kernel: who gets which connection, and what happens when others change the rules."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.ending import Ending, EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.link.link import open_link
from exclave.redirect.kernel.nft import remove_table
from exclave.redirect.kernel.observe import NOTHING, Observed
from exclave.redirect.reconciler import (
    Action,
    AppliedRecord,
    Redirect,
    is_wider,
    open_redirect,
    open_table,
    plan_table,
)
from exclave.redirect.rules.policy import RedirectPolicy, Server
from exclave.redirect.rules.ruleset import ruleset_digest
from support.faults import failing_once
from support.network_namespace import in_network_namespace

from .lab import CLUSTER4, CLUSTER6, PEER4, VM4, VM6, CallResult, Lab, as_proxies, doors_inside, open_lab
from .policies import PLAIN, PROXY

POLICY = replace(
    PLAIN,
    addresses=(VM4,),
    networks=("10.42.0.0/16", "fd00:42::/32"),
    exempt_outbound_ports=(3306,),
    exempt_networks=("10.42.0.40/32",),
    exempt_uids=(4242,),
    servers=(Server(CLUSTER4, 6443),),
    families=(4, 6),
)

Wanted = Latest[RedirectPolicy | None]


@asynccontextmanager
async def redirected(lab: Lab, policy: RedirectPolicy, *instances: str) -> AsyncIterator[tuple[Wanted, Redirect]]:
    endings = EndingSwitch()
    endings.ask_nowait(Ending.STOP)
    wanted = Wanted(policy)
    async with open_link(endings), open_table(endings):
        as_proxies(lab, *(instances or ("a",)))
        async with open_redirect(wanted, lab.network.scratch, endings) as redirect:
            yield wanted, redirect


async def test_calls_to_the_group_s_ports_reach_the_proxy_with_their_destination() -> None:
    async with open_lab() as lab, redirected(lab, POLICY) as (_, redirect):
        lab.listen(lab.vm, "application", f"{VM4}/8080", f"{VM4}/9100", f"{VM4}/22")
        assert await lab.call(lab.peer, VM4, 8080) == CallResult("proxy a", (VM4, 8080))
        assert await lab.call(lab.peer, VM4, 4143) == CallResult("proxy a", (VM4, 4143))  # opaque traffic of pods
        assert await lab.call(lab.peer, VM4, 9100) == CallResult("application")  # not a port of the group
        assert await lab.call(lab.peer, VM4, 22) == CallResult("application")
        await redirect.refresh()
        assert (redirect.observed.value.inbound, redirect.observed.value.outbound) == (2, 0)


async def test_calls_of_programs_reach_the_proxy_with_their_destination_unless_exempt() -> None:
    async with open_lab() as lab:
        await lab.peer.add_address("10.42.0.40/32")
        ports = (80, 22, 6443, 3306)
        lab.listen(lab.peer, "peer", *(f"{CLUSTER4}/{port}" for port in ports), f"{PEER4}/80", "10.42.0.40/80")
        async with redirected(lab, POLICY) as (_, redirect):
            assert await lab.call(lab.vm, CLUSTER4, 80) == CallResult("proxy a", (CLUSTER4, 80))
            assert await lab.call(lab.vm, CLUSTER4, 81) == CallResult("proxy a", (CLUSTER4, 81))
            assert await lab.call(lab.vm, CLUSTER6, 80) == CallResult("proxy a", (CLUSTER6, 80))
            for why, call in {
                "SSH": lab.call(lab.vm, CLUSTER4, 22),
                "the API server": lab.call(lab.vm, CLUSTER4, 6443),
                "an excluded port": lab.call(lab.vm, CLUSTER4, 3306),
                "an excluded network": lab.call(lab.vm, "10.42.0.40", 80),
                "no network of the cluster": lab.call(lab.vm, PEER4, 80),
                "the proxy itself": lab.call(lab.vm, CLUSTER4, 80, uid=PROXY),
                "an excluded user": lab.call(lab.vm, CLUSTER4, 80, uid=4242),
            }.items():
                assert await call == CallResult("peer"), why
            await redirect.reconcile()
            assert (redirect.observed.value.inbound, redirect.observed.value.outbound) == (0, 3)


@pytest.mark.parametrize("networks", [("10.0.0.0/8",), None, ()], ids=["cluster", "all", "none"])
async def test_connections_to_this_machine_itself_bypass_the_proxy(networks: tuple[str, ...] | None) -> None:
    """Also the proxy's own: it connects to the original destination, and would call itself for ever."""
    async with open_lab() as lab, redirected(lab, replace(POLICY, networks=networks)):
        lab.listen(lab.vm, "application", f"{VM4}/8080", "127.0.0.1/8080")
        for address in (VM4, "127.0.0.1"):
            assert await lab.call(lab.vm, address, 8080) == CallResult("application")
            assert await lab.call(lab.vm, address, 8080, uid=PROXY) == CallResult("application")


async def test_a_member_with_an_ipv6_address_is_reached_by_ipv6() -> None:
    async with open_lab() as lab, redirected(lab, replace(POLICY, addresses=(VM6,))):
        lab.listen(lab.vm, "application", f"{VM4}/8080")
        assert await lab.call(lab.peer, VM6, 8080) == CallResult("proxy a", (VM6, 8080))
        assert await lab.call(lab.peer, VM6, 4143) == CallResult("proxy a", (VM6, 4143))
        assert await lab.call(lab.peer, VM4, 8080) == CallResult("application")


async def test_the_metadata_service_is_not_captured_even_if_everything_is_wanted() -> None:
    async with open_lab() as lab:
        await lab.peer.add_address("169.254.169.254/32")
        await lab.vm.add_route("169.254.169.254/32")
        lab.listen(lab.peer, "metadata", "169.254.169.254/80")
        async with redirected(lab, replace(POLICY, networks=None)):
            assert await lab.call(lab.vm, PEER4, 443) == CallResult("proxy a", (PEER4, 443))
            assert await lab.call(lab.vm, "169.254.169.254", 80) == CallResult("metadata")


async def test_a_neighbour_cannot_reach_the_private_link() -> None:
    async with open_lab() as lab:
        for network in ("169.254.77.0/29", "fd77:ec1a:7e::/64"):
            await lab.peer.must("ip", "route", "add", network, "via", VM6 if ":" in network else VM4)
        endings = EndingSwitch()
        endings.ask_nowait(Ending.STOP)
        places = [("169.254.77.1", 4140), ("169.254.77.1", 4191), ("fd77:ec1a:7e::1", 4140)]
        async with open_link(endings), open_table(endings):
            lab.listen(lab.vm, "link", *(f"{address}/{port}" for address, port in places))
            for address, port in places:
                assert (await lab.call(lab.peer, address, port)).who == "link"  # so it is the drop that excludes them
            async with open_redirect(Wanted(POLICY), lab.network.scratch, endings) as redirect:
                for address, port in places:
                    assert (await lab.call(lab.peer, address, port, timeout=0.3)).who == "TimeoutError"
                    assert (await lab.call(lab.vm, address, port)).who == "link"
                await redirect.reconcile()
                assert redirect.observed.value.dropped >= len(places)


async def test_a_swap_moves_new_connections_only() -> None:
    async with open_lab() as lab, redirected(lab, POLICY, "a", "b") as (wanted, redirect):
        inbound, outbound = lab.talk(lab.peer, VM4, 8080), lab.talk(lab.vm, CLUSTER4, 80)
        assert (inbound.who, outbound.who) == ("proxy a", "proxy a")
        wanted.set(replace(POLICY, instance="b"))
        assert not redirect.in_place
        await redirect.observed.wait_for(lambda observed: observed.instance == "b")
        assert redirect.in_place
        assert await lab.call(lab.peer, VM4, 8080) == CallResult("proxy b", (VM4, 8080))
        assert await lab.call(lab.vm, CLUSTER4, 80) == CallResult("proxy b", (CLUSTER4, 80))
        assert inbound.is_alive()
        assert outbound.is_alive()


async def test_with_a_dead_proxy_outbound_can_be_opened_while_inbound_stays_closed() -> None:
    failed = replace(POLICY, refuses=True)
    async with open_lab() as lab, redirected(lab, failed, "b") as (wanted, redirect):
        lab.listen(lab.vm, "application", f"{VM4}/8080")
        lab.listen(lab.peer, "peer", f"{CLUSTER4}/80")
        assert (await lab.call(lab.vm, CLUSTER4, 80)).who == "ConnectionRefusedError"
        wanted.set(replace(failed, outbound=False))
        await redirect.observed.wait_for(lambda observed: observed.digest != ruleset_digest(failed))
        assert await lab.call(lab.vm, CLUSTER4, 80) == CallResult("peer")
        assert (await lab.call(lab.peer, VM4, 8080)).who == "ConnectionRefusedError"


@pytest.mark.parametrize("address", [CLUSTER4, CLUSTER6])
async def test_outbound_connections_wait_for_a_proxy_that_is_started_again_and_inbound_ones_fail(address: str) -> None:
    async with open_lab() as lab, redirected(lab, POLICY, "b"):
        assert (await lab.call(lab.peer, VM4, 8080)).who == "ConnectionRefusedError"
        assert (await lab.call(lab.vm, address, 80, timeout=0.3)).who == "TimeoutError"
        results = []

        async def call() -> None:
            results.append(await lab.call(lab.vm, address, 80, timeout=30.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            while not await _half_open(lab, address):  # noqa: ASYNC110  its first packet causes no event
                await trio.sleep(0.05)
            as_proxies(lab, "a")
        assert results == [CallResult("proxy a", (address, 80))]


async def _half_open(lab: Lab, address: str) -> bool:
    """Whether a program of the VM waits for the answer of this address."""
    return bool(
        await lab.vm.must("ss", "-Htn", "state", "syn-sent", "dst", f"[{address}]" if ":" in address else address)
    )


FOREIGN = {
    "flushed all rules of the host": "flush ruleset",
    "deleted the table": "delete table inet exclave",
    "emptied a chain": "flush chain inet exclave outbound",
    "added a rule": "insert rule inet exclave inbound accept",
    "widened a set": "add element inet exclave passed_ports { 80 }",
    "narrowed a set": "delete element inet exclave captured_ports { 8080 }",
    "made the table sleep": "add table inet exclave { flags dormant; }",
    "made a chain drop": "chain inet exclave foreign { policy drop; }",
}


async def test_every_change_by_others_is_repaired(caplog: pytest.LogCaptureFixture) -> None:
    async with open_lab() as lab, redirected(lab, POLICY) as (_, redirect):
        await redirect.reconcile()
        assert redirect.repairs == 0
        for repairs, (what, command) in enumerate(FOREIGN.items(), 1):
            caplog.clear()
            await lab.nft(*command.split(" "))
            await redirect.reconcile()  # unless its task, which reads the table once after the opening, was faster
            assert redirect.repairs == repairs, what
            assert redirect.in_place
            assert await lab.call(lab.peer, VM4, 8080) == CallResult("proxy a", (VM4, 8080)), what
            lines = [line for line in caplog.messages if line.startswith("redirect: another program changed")]
            assert len(lines) == 1, caplog.messages


async def test_a_half_open_connection_from_narrower_rules_is_captured_after_a_widening() -> None:
    nobody = "10.42.0.77"
    async with open_lab() as lab, redirected(lab, replace(POLICY, outbound=False)) as (wanted, _):
        await lab.vm.must("ip", "neighbour", "add", nobody, "lladdr", "02:00:00:00:00:99", "dev", "eth0")

        async def widen() -> None:
            while b"sport=40001" not in await lab.vm.must("conntrack", "-L", "-p", "tcp"):
                continue
            wanted.set(POLICY)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(widen)
            result = await lab.call(lab.vm, nobody, 80, timeout=20.0, source_port=40001)
        assert result == CallResult("proxy a", (nobody, 80))


async def test_the_rules_of_others_stay_as_they_are() -> None:
    theirs = (
        "add table ip theirs; add chain ip theirs c { type nat hook output priority 0; }; add rule ip theirs c accept"
    )
    async with open_lab() as lab:
        await lab.nft(theirs)
        before = await lab.nft("list", "ruleset")
        async with redirected(lab, POLICY) as (wanted, redirect):
            assert await lab.nft("list", "table", "ip", "theirs") in before
            await lab.nft("add table inet exclave-like")
            await redirect.reconcile()
            assert redirect.repairs == 0
            await lab.nft("delete table inet exclave-like")
            wanted.set(None)
            await redirect.observed.wait_for(lambda observed: observed.is_draining)
            assert await lab.nft("list", "table", "ip", "theirs") in before
        assert await lab.nft("list", "ruleset") == before


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
async def test_leave_and_stop_drain_and_a_hand_over_leaves_the_rules(ending: Ending) -> None:
    async with open_lab() as lab:
        endings = EndingSwitch()
        async with open_redirect(Wanted(POLICY), lab.network.scratch, endings):
            if ending is not Ending.HAND_OVER:
                endings.ask_nowait(ending)
        chains = re.findall("chain (\\w+)", await lab.nft("list", "table", "inet", "exclave"))
        captures = ["inbound", "outbound", "refusals"] if ending is Ending.HAND_OVER else []
        assert chains == ["foreign", *captures, "kept"]  # until open_table removes it, after the proxy's end
        assert (lab.network.scratch / "rules.json").exists() == (ending is Ending.HAND_OVER)
        for _ in range(2):
            await remove_table()
        assert await lab.nft("list", "tables") == ""


async def test_rules_left_by_an_earlier_agent_and_changed_since_are_replaced_and_no_connection_notices() -> None:
    async with open_lab() as lab:
        async with open_link(EndingSwitch()):
            as_proxies(lab, "a")
            async with open_redirect(Wanted(POLICY), lab.network.scratch, EndingSwitch()):
                pass
        inbound = lab.talk(lab.peer, VM4, 8080)
        await lab.nft("insert rule inet exclave inbound tcp dport 8080 accept")  # while no agent runs
        assert (await lab.call(lab.peer, VM4, 8080)).who == "ConnectionRefusedError"
        async with open_redirect(Wanted(POLICY), lab.network.scratch, EndingSwitch()) as redirect:
            assert redirect.in_place
            assert redirect.repairs == 1
            assert await lab.call(lab.peer, VM4, 8080) == CallResult("proxy a", (VM4, 8080))
            assert inbound.is_alive()


def handles(listing: str) -> list[str]:
    """A rule that was made anew has another handle."""
    return re.findall(r"# handle (\d+)", listing)


EARLIER: dict[str, tuple[RedirectPolicy, dict[str, str], bool]] = {
    "the same rules": (POLICY, {}, True),
    "a policy that makes the same rules": (replace(POLICY, exempt_inbound_ports=(22,)), {}, True),
    "rules for another instance": (replace(POLICY, instance="b"), {}, False),
    "rules before the last boot": (POLICY, {"boot_id": "another"}, False),
    "rules of another exclave": (POLICY, {"rules": "another"}, False),
}


@pytest.mark.parametrize(("earlier", "noted", "stays"), EARLIER.values(), ids=EARLIER)
async def test_rules_that_an_earlier_agent_made_stay_if_they_are_the_wanted_ones(
    earlier: RedirectPolicy, noted: dict[str, str], stays: bool
) -> None:
    async with open_lab() as lab:
        async with open_redirect(Wanted(earlier), lab.network.scratch, EndingSwitch()):
            pass
        made = lab.network.scratch / "rules.json"
        made.write_text(json.dumps(json.loads(made.read_text()) | noted))
        before = handles(await lab.nft("-a", "list", "table", "inet", "exclave"))
        async with open_redirect(Wanted(POLICY), lab.network.scratch, EndingSwitch()) as redirect:
            assert redirect.in_place
            assert redirect.repairs == 0
            assert (handles(await lab.nft("-a", "list", "table", "inet", "exclave")) == before) == stays
            await lab.nft("flush", "chain", "inet", "exclave", "outbound")  # adopted rules are repaired as well
            await redirect.reconcile()
            assert redirect.repairs == 1


async def test_rules_that_the_kernel_refuses_leave_the_old_ones_and_are_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_lab() as lab, redirected(lab, POLICY, "a", "b") as (wanted, redirect):
        with doors_inside(lab.vm, lab.network.scratch, prefix="false"):
            wanted.set(replace(POLICY, instance="b"))
            problem = await redirect.problem.wait_for(lambda problem: problem is not None)
        assert problem is not None
        assert problem.message == "nft refused the rules: no message"
        assert not redirect.in_place
        assert (await lab.call(lab.peer, VM4, 8080)).who == "proxy a"
        with doors_inside(lab.vm, lab.network.scratch):
            await redirect.reconcile()
        assert redirect.in_place
        assert redirect.problem.value is None
        assert (await lab.call(lab.peer, VM4, 8080)).who == "proxy b"
        assert [message for message in caplog.messages if "refused" in message] == [
            "redirect: nft refused the rules: no message "
            "(the kernel needs nf_tables with NAT (modules nft_chain_nat, nf_conntrack))"
        ]


@pytest.mark.parametrize(
    "is_reported", [True, False], ids=["changes are reported, and this one was missed", "no changes are reported"]
)
async def test_a_reading_at_intervals_finds_changes_that_were_not_reported(
    is_reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "exclave.redirect.reconciler.CHECK_INTERVAL" if is_reported else "exclave.redirect.reconciler.POLL_INTERVAL",
        0.05,
    )
    if not is_reported:
        monkeypatch.setattr("exclave.redirect.kernel.monitor._GROUP", 4000)
    async with (
        open_lab() as lab,
        redirected(lab, POLICY) as (_, redirect),
    ):  # its monitor is in this network, not in vm's
        await lab.nft("flush", "ruleset")
        with trio.fail_after(20):
            while redirect.repairs == 0 or not redirect.in_place:
                await redirect.observed.wait_change()
        assert await lab.call(lab.peer, VM4, 8080) == CallResult("proxy a", (VM4, 8080))


def test_a_reported_change_is_repaired_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It also counts the runs of nft: our own changes are reported as well, and cause one more reading only."""

    @in_network_namespace()
    async def repaired() -> None:
        with counted_nft(tmp_path) as count:
            async with open_redirect(Wanted(POLICY), tmp_path, EndingSwitch()) as redirect:
                await at_rest()
                assert redirect.in_place
                for repairs, command in enumerate(FOREIGN.values(), 1):
                    caplog.clear()
                    before = count()
                    subprocess.run(["nft", *command.split(" ")], check=True)
                    with trio.fail_after(20):
                        while redirect.repairs < repairs or not redirect.in_place:
                            await redirect.observed.wait_change()
                    await at_rest()
                    assert count() - before <= 1 + 4  # theirs; then read, load, read, and a reading for our own change
                    assert redirect.repairs == repairs
                    (message,) = caplog.messages
                    assert message.startswith("redirect: another program changed or removed our table (nft, process ")

    repaired()


def test_a_program_that_undoes_every_repair_slows_repairs_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exclave.kit.tasks.backoff.FIGHT", 3)
    monkeypatch.setattr("exclave.kit.tasks.backoff.PAUSE", 3600.0)

    @in_network_namespace()
    async def fought() -> None:
        with counted_nft(tmp_path):
            async with open_redirect(Wanted(POLICY), tmp_path, EndingSwitch()) as redirect:
                await at_rest()
                for _ in range(5):
                    subprocess.run(["nft", "flush ruleset"], check=True)
                    await at_rest()
                assert redirect.repairs == 3
        fights = [message for message in caplog.messages if "undo" in message]
        assert fights == ["redirect: another program undoes each repair; from now on one repair in 3600 s"]

    fought()


async def at_rest() -> None:
    """Wait until no task has had anything to do for longer than a program runs."""
    with trio.fail_after(20):
        await trio.testing.wait_all_tasks_blocked(cushion=0.3)


@contextmanager
def counted_nft(folder: Path) -> Iterator[Callable[[], int]]:
    """`nft` runs in the network of this thread; how often it ran."""
    home, counted = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net", folder / "counted"
    script = folder / "nft"
    script.write_text(f'#!/bin/sh\necho >> {counted}\nexec nsenter --net={home} -- {shutil.which("nft")} "$@"\n')
    script.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    try:
        yield lambda: len(counted.read_bytes())
    finally:
        os.environ["PATH"] = before


async def test_a_fault_of_ours_ends_the_agent_by_handing_over_and_the_rules_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_lab() as lab, open_link(EndingSwitch()):
        as_proxies(lab, "a")
        wanted = Wanted(POLICY)
        with pytest.raises(RuntimeError, match="it fell over"):
            async with open_redirect(wanted, lab.network.scratch, EndingSwitch()):
                stays = lab.talk(lab.vm, CLUSTER4, 80)
                failing_once(monkeypatch, "exclave.redirect.reconciler.plan_table", plan_table)
                wanted.set(replace(POLICY, instance="b"))
                await trio.sleep_forever()
        assert stays.is_alive()
        assert (await lab.call(lab.vm, CLUSTER4, 80)).who == "proxy a"


RULES = "table inet exclave { }"


def test_a_fingerprint_is_found_for_the_same_rules_only(tmp_path: Path) -> None:
    made = AppliedRecord(tmp_path)
    assert made.find_fingerprint(RULES) is None
    made.store(RULES, "as it was made")
    assert AppliedRecord(tmp_path).find_fingerprint(RULES) == "as it was made"
    assert AppliedRecord(tmp_path).find_fingerprint(f"{RULES}\n") is None


DAMAGED = {
    "nothing": "",
    "half of it": '{"rules": "',
    "a list": "[]",
    "null": "null",
    "no fingerprint": '{"rules": "", "boot_id": ""}',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_ignored(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(text)
    assert AppliedRecord(tmp_path).find_fingerprint(RULES) is None


def test_a_record_of_an_earlier_boot_is_ignored(tmp_path: Path) -> None:
    AppliedRecord(tmp_path).store(RULES, "as it was made")
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another"}))
    assert AppliedRecord(tmp_path).find_fingerprint(RULES) is None


def test_a_record_can_be_removed_repeatedly(tmp_path: Path) -> None:
    AppliedRecord(tmp_path).store(RULES, "as it was made")
    for _ in range(2):
        AppliedRecord(tmp_path).remove()
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_a_warning_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    AppliedRecord(tmp_path / "absent").store(RULES, "as it was made")
    (message,) = caplog.messages
    assert message.startswith("redirect: the next agent will make its rules again: cannot write ")


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
async def test_leave_and_stop_remove_the_table_and_a_hand_over_leaves_it(ending: Ending) -> None:
    async with open_lab() as lab:
        endings = EndingSwitch()
        endings.ask_nowait(ending)
        before = await lab.nft("list", "ruleset")
        async with open_table(endings):
            await lab.load(PLAIN)
        after = await lab.nft("list", "ruleset")
        assert ("table inet exclave {" in after) == (ending is Ending.HAND_OVER)
        await remove_table()
        assert await lab.nft("list", "ruleset") == before


OURS = Observed(installed=True, instance="a", digest=ruleset_digest(PLAIN), fingerprint="as we made it")
MADE = OURS.fingerprint
HOLDING = Observed(installed=True, is_draining=True, fingerprint="holding")

UNCONFIRMED, OVER = replace(PLAIN, armed_until=60.0), replace(PLAIN, armed_until=0.0)
TIMED = replace(OURS, digest=ruleset_digest(UNCONFIRMED))

CASES: dict[str, tuple[RedirectPolicy | None, Observed, str | None, Action]] = {
    "nothing wanted, nothing there": (None, NOTHING, None, Action.NOTHING),
    "nothing wanted, and a table is there": (None, OURS, MADE, Action.APPLY),
    "nothing wanted, and an earlier agent's table is there": (None, OURS, None, Action.APPLY),
    "nothing wanted, and what is there holds": (None, HOLDING, None, Action.NOTHING),
    "wanted, and what is there holds": (PLAIN, HOLDING, None, Action.APPLY),
    "wanted, and nothing there yet": (PLAIN, NOTHING, None, Action.APPLY),
    "wanted and there": (PLAIN, OURS, MADE, Action.NOTHING),
    "there, without a reference": (PLAIN, OURS, None, Action.APPLY),
    "others removed it": (PLAIN, NOTHING, MADE, Action.REPAIR),
    "others changed it": (PLAIN, replace(OURS, fingerprint="as they made it"), MADE, Action.REPAIR),
    "another instance is wanted": (replace(PLAIN, instance="b"), OURS, MADE, Action.APPLY),
    "a policy that makes the same rules": (replace(PLAIN, exempt_inbound_ports=(22,)), OURS, MADE, Action.NOTHING),
    "they are not confirmed, and their time runs": (
        UNCONFIRMED, replace(TIMED, armed_left=7.0), MADE, Action.NOTHING),
    "their time is over in the kernel": (UNCONFIRMED, replace(TIMED, armed_left=0.0), MADE, Action.NOTHING),
    "their time is over before the kernel's": (OVER, replace(TIMED, armed_left=7.0), MADE, Action.APPLY),
    "their time is over": (OVER, replace(TIMED, armed_left=0.0), MADE, Action.NOTHING),
    "they are confirmed": (PLAIN, replace(TIMED, armed_left=7.0), MADE, Action.APPLY),
    "connections were counted": (PLAIN, replace(OURS, inbound=7, outbound=7, dropped=7), MADE, Action.NOTHING),
}  # fmt: skip


@pytest.mark.parametrize(("wanted", "observed", "reference", "action"), CASES.values(), ids=CASES)
def test_decision(wanted: RedirectPolicy | None, observed: Observed, reference: str | None, action: Action) -> None:
    assert plan_table(wanted, observed, reference) is action


def test_a_swap_alone_widens_nothing() -> None:
    assert not is_wider(PLAIN, replace(PLAIN, instance="b", trial="b"))
    assert is_wider(replace(PLAIN, outbound=False), PLAIN)
    assert is_wider(replace(PLAIN, inbound_ports=()), PLAIN)
    assert is_wider(None, PLAIN)
