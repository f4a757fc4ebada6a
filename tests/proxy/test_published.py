"""What is published of two instances, of which one is chosen."""

from dataclasses import replace

import pytest

from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.published import ADMIN_DENIED, InstanceView, PublishedProxy
from exclave.proxy.states import Difference, InstanceEvent, InstanceState

READY = InstanceView(InstanceState.STANDBY, 4711, "digest", is_ready=True)
SILENT = InstanceView(InstanceState.STANDBY, 4712, "digest", not_ready_because="proxy runs, but does not answer")


def published() -> PublishedProxy:
    return PublishedProxy(ProxyUser("nobody", 65534, 65534))


def test_rules_make_the_instance_that_they_point_to_active_and_others_drain() -> None:
    proxy = published()
    for instance, state in (("a", InstanceState.ACTIVE), ("b", InstanceState.STANDBY)):
        proxy.change(instance, InstanceView(state, 4711, "digest"))  # type: ignore[arg-type]
    proxy.observe_rules("b")
    assert {name: view.state for name, view in proxy.instances.value.items()} == {
        "a": InstanceState.DRAINING,
        "b": InstanceState.ACTIVE,
    }
    proxy.observe_rules(None)
    assert {view.state for view in proxy.instances.value.values()} == {InstanceState.DRAINING}


def test_an_ended_instance_is_not_published() -> None:
    proxy = published()
    proxy.change("a", InstanceView(InstanceState.ACTIVE, 4711, "digest"))
    assert proxy.apply_event("a", InstanceEvent.EXITED) == ()
    assert proxy.instances.value == {}


def test_only_the_chosen_instance_makes_the_proxy_ready() -> None:
    proxy = published()
    proxy.choose("a")
    proxy.change("b", READY)
    assert proxy.ready.value is None
    proxy.change("a", READY)
    assert proxy.ready.value == "a"
    proxy.change("b", SILENT)
    assert (proxy.ready.value, proxy.problem.value) == ("a", None)


def test_choosing_another_ready_instance_never_publishes_none() -> None:
    proxy, values = published(), []
    proxy.choose("a")
    for instance in ("a", "b"):
        proxy.change(instance, READY)  # type: ignore[arg-type]
    proxy.ready.set = lambda value, put=proxy.ready.set: (values.append(value), put(value))  # type: ignore[method-assign, misc, assignment]
    proxy.choose("b")
    assert values == ["b"]


@pytest.mark.parametrize("state", [InstanceState.STARTING, InstanceState.ENDING])
def test_a_starting_or_ending_instance_cannot_serve_although_it_answers(state: InstanceState) -> None:
    proxy = published()
    proxy.choose("a")
    proxy.change("a", InstanceView(state, 4711, "digest", is_ready=True))
    assert proxy.ready.value is None


def test_the_problem_is_that_of_the_chosen_instance() -> None:
    proxy = published()
    proxy.choose("a")
    proxy.change("a", SILENT)
    assert proxy.problem.value == "proxy runs, but does not answer"
    proxy.change("a", READY)
    assert proxy.problem.value is None


def test_a_newly_chosen_instance_has_no_differences_yet() -> None:
    proxy = published()
    proxy.choose("a")
    proxy.outdated.set(frozenset({Difference.BINARY}))
    proxy.choose("a")
    assert proxy.outdated.value == {Difference.BINARY}
    proxy.choose("b")
    assert proxy.outdated.value == frozenset()


def test_a_denial_is_published_for_the_chosen_instance_alone_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    proxy = published()
    proxy.choose("a")
    proxy.change("a", READY)
    caplog.clear()
    proxy.change("b", replace(READY, is_admin_denied=True))
    assert proxy.admin_denial.value is None
    for _ in range(3):
        proxy.change("a", replace(READY, is_admin_denied=True))
    assert (proxy.ready.value, proxy.admin_denial.value) == ("a", ADMIN_DENIED.format("a"))
    proxy.choose("b")
    assert proxy.admin_denial.value == ADMIN_DENIED.format("b")
    proxy.change("b", READY)
    assert proxy.admin_denial.value is None
    assert [message for message in caplog.messages if "chosen" not in message] == [
        ADMIN_DENIED.format("a"),
        "proxy: its admin port answers again",
    ]
