"""Which rules are wanted, as settings, proxy, certificate and time go by."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.group import FailurePolicy, Port
from exclave.cluster.endpoint import ServerAddress
from exclave.cluster.server_addresses import open_server_addresses, store_answers
from exclave.config import RedirectConfig
from exclave.daemon.wanted_rules import POLL_INTERVAL, SCAN_INTERVAL, Steering, open_steering
from exclave.data_path.observer import DataPathObserver
from exclave.errors import ConfigError, Fault
from exclave.kit.tasks.latest import Latest
from exclave.redirect import exclusions as exclusions_module
from exclave.redirect.rules.policy import RedirectPolicy, Server, make_policy
from support.faults import NameServers, failing_once
from support.mesh import ADDRESS, RECORD, SERVERS, make_settings

AFTER = 30.0
SETTINGS = make_settings()


class Machine:
    """What steering looks at: settings, a proxy, a certificate, and a clock for it."""

    active: Any = None  # where an earlier agent's rules point

    def __init__(self, settings: Any = SETTINGS, ready: str | None = "a", **record: Any) -> None:
        self.settings: Latest[Any] = Latest(settings)
        self.ready: Latest[Any] = Latest(ready)
        self.chosen: Latest[Any] = Latest(ready)
        self.has_settings: Any = lambda settings: True
        self.instances: Latest[dict[str, Any]] = Latest({})
        self.svid: Latest[Any] = Latest(SimpleNamespace(not_after=1000.0))
        self.now = 0.0
        self.armed_until: float | None = None
        self.confirming: Any = SimpleNamespace(view=Latest(0), arm=lambda: self.armed_until)
        self.servers = Latest(SERVERS.value)
        self.membership = SimpleNamespace(
            settings=self.settings,
            captured=Latest((ADDRESS, "10.77.0.100")),
            record=replace(RECORD, **record),
        )

    @asynccontextmanager
    async def steered(self, config: RedirectConfig | None = None) -> AsyncIterator[Steering]:
        proxy: Any = SimpleNamespace(
            ready=self.ready,
            chosen=self.chosen,
            instances=self.instances,
            uid=990,
            has_settings=lambda settings: self.has_settings(settings),
        )
        identity: Any = SimpleNamespace(svid=self.svid)
        membership: Any = self.membership
        data_path = DataPathObserver(membership, identity, proxy, lambda: self.now)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(data_path.run_assessment)
            given = (membership, proxy, data_path, self.confirming, self.servers, self.active)
            async with open_steering(config or RedirectConfig(), *given) as opened:
                yield opened
            nursery.cancel_scope.cancel()


async def policy_of(steering: Steering) -> RedirectPolicy:
    policy = await steering.policy.wait_for(lambda policy: policy is not None)
    assert policy is not None
    return policy


class Servers:
    """SSH servers of the host, as far as anybody looks."""

    ports: tuple[int, ...] = (2222,)


@pytest.fixture(autouse=True)
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    found = Servers()
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setattr(exclusions_module, "find_ssh_session", lambda: ((), ()))
    monkeypatch.setattr(exclusions_module, "find_ssh_ports", lambda: found.ports)
    return found


OPEN, CLOSED = "open", "closed"


# What is wanted.


async def test_rules_follow_settings_configuration_and_host() -> None:
    config = RedirectConfig(
        exclude_inbound_ports=((9100, 9199),), exclude_outbound_networks=("10.42.9.0/24",), exclude_users=("nobody",)
    )
    async with Machine().steered(config) as steering:
        assert await policy_of(steering) == RedirectPolicy(
            instance="a",
            addresses=(ADDRESS, "10.77.0.100"),
            inbound_ports=(8080,),
            networks=("10.42.0.0/16",),
            proxy_uid=990,
            exempt_inbound_ports=((9100, 9199),),
            exempt_networks=("10.42.9.0/24",),
            exempt_uids=(65534,),
            servers=(Server("10.0.0.1", 6443),),
            ssh_ports=(2222,),
        )


async def test_there_are_no_rules_before_a_proxy_is_ready(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine(ready=None)
    async with machine.steered() as steering:
        await trio.sleep(10 * AFTER)
        assert steering.policy.value is None
        machine.ready.set("b")
        assert (await policy_of(steering)).instance == "b"


@pytest.mark.parametrize("lacking", ["settings", "address"])
async def test_there_are_no_rules_without_settings_or_address(
    lacking: str, autojump_clock: trio.testing.MockClock
) -> None:
    machine = Machine(None if lacking == "settings" else SETTINGS)
    if lacking == "address":
        machine.membership.captured.set(())
    async with machine.steered() as steering:
        await trio.sleep(AFTER)
        assert steering.policy.value is None


async def test_rules_are_right_from_the_start_for_an_adopted_proxy_that_they_point_to() -> None:
    machine = Machine(ready=None)
    machine.instances.set({"a": SimpleNamespace(is_adopted=True, pid=1), "b": SimpleNamespace(is_adopted=True, pid=2)})
    machine.chosen.set("b")
    machine.active = "b"
    async with machine.steered() as steering:
        assert steering.policy.value is not None
        assert steering.policy.value.instance == "b"


@pytest.mark.parametrize("active", [None, "b"])
async def test_an_adopted_proxy_that_no_rules_point_to_gets_them_once_it_is_ready(active: str | None) -> None:
    machine = Machine(ready=None)
    machine.instances.set({"a": SimpleNamespace(is_adopted=True, pid=1)})  # its agent was killed before it was ready
    machine.chosen.set("a")
    machine.active = active
    async with machine.steered() as steering:
        assert steering.policy.value is None
        machine.ready.set("a")
        assert (await policy_of(steering)).instance == "a"


LOSSES: dict[str, Any] = {
    "the proxy is away": lambda machine: machine.ready.set(None),
    "the certificate has ended": lambda machine: setattr(machine, "now", 1000.0),
    "there is no certificate": lambda machine: machine.svid.set(None),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
async def test_outbound_opens_after_a_while_and_closes_again(lose: Any, autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    async with machine.steered() as steering:
        whole = await policy_of(steering)
        lose(machine)
        await trio.sleep(AFTER - POLL_INTERVAL)
        assert steering.policy.value == whole
        await trio.sleep(2 * POLL_INTERVAL)
        assert steering.policy.value == replace(whole, outbound=False, refuses=True)
        machine.now = 0.0
        machine.ready.set("a")
        machine.svid.set(SimpleNamespace(not_after=2000.0))
        await steering.policy.wait_for(lambda policy: policy == whole)


@pytest.mark.parametrize(
    ("outbound", "inbound"), [(OPEN, OPEN), (CLOSED, OPEN), (CLOSED, CLOSED)], ids=["both", "inbound", "neither"]
)
async def test_a_group_may_choose_otherwise(
    outbound: Any, inbound: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """Also where both open the table stays: it keeps strangers from the private link."""
    machine = Machine(make_settings(failure=FailurePolicy(AFTER, outbound, inbound)))
    async with machine.steered() as steering:
        whole = await policy_of(steering)
        machine.ready.set(None)
        await trio.sleep(2 * AFTER)
        wanted = replace(whole, outbound=outbound == CLOSED, inbound=inbound == CLOSED, refuses=True)
        assert steering.policy.value == wanted


async def test_new_settings_wait_for_a_proxy_that_serves_them(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    async with machine.steered() as steering:
        before = await policy_of(steering)
        machine.has_settings = lambda _: machine.chosen.value == "b"
        machine.settings.set(make_settings(ports=(Port("new", 8081),), capture="none"))
        # Only what pods may come to as soon as it is listed does not wait.
        await steering.policy.wait_for(lambda policy: policy == replace(before, inbound_ports=(8080, 8081)))
        await trio.sleep(100)
        machine.chosen.set("b")
        machine.ready.set("b")
        moved = replace(before, instance="b", inbound_ports=(8081,), networks=())
        await steering.policy.wait_for(lambda policy: policy != replace(before, inbound_ports=(8080, 8081)))
        assert steering.policy.value == moved  # at once, in one transaction


async def test_new_addresses_wait_for_a_proxy_that_has_them(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    async with machine.steered() as steering:
        before = await policy_of(steering)
        machine.has_settings = lambda _: machine.chosen.value == "b"
        machine.membership.captured.set(("10.77.0.21", ADDRESS))
        await trio.sleep(100)
        assert steering.policy.value == before
        machine.chosen.set("b")
        machine.ready.set("b")
        moved = replace(before, instance="b", addresses=("10.77.0.21", ADDRESS))
        await steering.policy.wait_for(lambda policy: policy != before)
        assert steering.policy.value == moved


async def test_a_swap_ends_its_trial_and_moves_traffic_in_one_transaction(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine, seen = Machine(), []
    async with machine.steered() as steering, trio.open_nursery() as nursery:

        async def note() -> None:
            async for policy in steering.policy.changes():
                assert policy is not None
                seen.append((policy.instance, policy.trial))

        nursery.start_soon(note)
        steering.trial.set("b")
        await trio.sleep(1)
        steering.trial.set(None)
        machine.chosen.set("b")
        machine.ready.set("b")
        await trio.sleep(1)
        assert seen == [("a", None), ("a", "b"), ("b", None)]
        nursery.cancel_scope.cancel()


async def test_settings_that_make_no_rules_change_none_and_are_reported_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    async with machine.steered() as steering:
        before = await policy_of(steering)
        machine.settings.set(make_settings(ports=(Port("http", 70000),)))
        problem = await steering.problem.wait_for(lambda problem: problem is not None)
        await trio.sleep(10 * POLL_INTERVAL)
        assert steering.policy.value == before
        assert problem == ("the rules stay as they are: port: a number from 1 to 65535 was expected, found 70000")
        assert caplog.messages == [problem]
        machine.settings.set(SETTINGS)
        await steering.problem.wait_for(lambda problem: problem is None)


async def test_rules_hold_how_long_they_may_stand_unconfirmed(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    machine.armed_until = 75.0
    async with machine.steered() as steering:
        assert (await policy_of(steering)).armed_until == 75.0
        machine.armed_until = None
        machine.confirming.view.set(1)
        await steering.policy.wait_for(lambda policy: policy is not None and policy.armed_until is None)


# The host.


async def test_a_user_that_does_not_exist_is_a_mistake_in_the_configuration() -> None:
    parts: Any = [SimpleNamespace()] * 5
    with pytest.raises(ConfigError) as caught:
        async with open_steering(RedirectConfig(exclude_users=("nobody-here",)), *parts, None):
            pass
    assert caught.value.fault is Fault.CONFIG_INVALID
    assert caught.value.message == "redirect.exclude_users: there is no user nobody-here"
    assert caught.value.hint == "name users and groups of this machine, or their numbers"


async def test_an_ssh_server_that_moves_is_found_and_its_old_port_stays_excluded(
    servers: Servers, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "exclave.daemon.wanted_rules")
    async with Machine().steered() as steering:
        before = await policy_of(steering)
        for ports, expected in (((2022,), (2022, 2222)), ((), (2022, 2222))):
            servers.ports = ports
            await steering.policy.wait_for(lambda policy, expected=expected: policy.ssh_ports == expected)  # type: ignore[misc, union-attr]
            await trio.sleep(2 * SCAN_INTERVAL)
        assert steering.policy.value == replace(before, ssh_ports=(2022, 2222))
        assert caplog.messages == ["redirect: [ssh_ports=2022,2222]"]


async def test_rules_are_made_at_once_and_follow_the_api_servers_addresses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    machine.servers.set(())  # not one is known
    async with machine.steered() as steering:
        before = steering.policy.value
        assert before is not None and before.servers == ()
        began = trio.current_time()
        machine.servers.set((ServerAddress("fd00::7", 6443), ServerAddress("10.0.0.2", 443)))
        expected = (Server("10.0.0.2", 443), Server("fd00::7", 6443))
        await steering.policy.wait_for(lambda policy: policy == replace(before, servers=expected))
        assert trio.current_time() == began


async def test_no_decision_waits_for_name_servers_that_are_silent(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    NameServers(api_test=None)
    server = "https://api.test:6443"
    store_answers(tmp_path, {server: {"10.0.0.7"}})
    machine = Machine()
    async with open_server_addresses([server], tmp_path) as machine.servers, machine.steered() as steering:
        assert steering.policy.value is not None and steering.policy.value.servers == (Server("10.0.0.7", 6443),)
        began = trio.current_time()
        machine.ready.set("b")
        await steering.policy.wait_for(lambda policy: policy is not None and policy.instance == "b")
        assert trio.current_time() == began


# What falls over comes back.


async def test_a_fault_leaves_the_rules_as_they_are_and_is_got_over(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    async with machine.steered() as steering:
        before = await policy_of(steering)
        calls = failing_once(monkeypatch, "exclave.daemon.wanted_rules.make_policy", make_policy)
        machine.ready.set("b")
        await steering.policy.wait_for(lambda policy: policy == replace(before, instance="b"))
        assert len(calls) == 2
