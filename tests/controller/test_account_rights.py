"""What the controller reads about the rights of others."""

import pytest
import trio
import trio.testing

from exclave.api.requests import Object
from exclave.cluster.answers import AnswerTooLarge
from exclave.controller.account_rights import EVERY, follow_rights, read_rights
from exclave.controller.policy.accept import GroupRights
from exclave.errors import ApiRefusal, ClusterError, Fault
from support.fake_cluster import FakeCluster

TEAM = {"metadata": {"name": "team"}, "roleRef": {"kind": "ClusterRole", "name": "admin"}}


def listed(*bindings: Object, more: str = "") -> Object:
    return {"metadata": {"continue": more}, "items": list(bindings)}


async def test_bindings_of_others_are_read_in_the_namespace_of_accounts() -> None:
    cluster = FakeCluster(listed(TEAM))
    assert await read_rights(cluster, "shop", "exclave") == GroupRights((TEAM,))
    (request,) = cluster.requests
    assert (request.verb, request.path) == (
        "list",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/shop-vms/rolebindings",
    )


UNREADABLE: dict[str, tuple[Object | Exception, str]] = {
    "a right that is missing": (
        ApiRefusal(403, "Forbidden", "no", ""), "the controller may not list the RoleBindings in namespace shop-vms",
    ),
    "megabytes": (AnswerTooLarge("rolebindings"), "the API server's answer about rolebindings has more than"),
    "more than are read": (listed(more="next"), "there are more than 500 RoleBindings in namespace shop-vms"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "fault"), UNREADABLE.values(), ids=UNREADABLE)
async def test_bindings_that_cannot_be_read_are_a_fault(answer: Object | Exception, fault: str) -> None:
    rights = await read_rights(FakeCluster(answer), "shop", "exclave")
    assert rights.fault is not None
    assert rights.fault.startswith(fault)


async def test_they_are_read_again_and_a_failure_keeps_what_was_read(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    away = ClusterError(Fault.UNREACHABLE, "no server answers", "")
    cluster, found = FakeCluster(away, listed(), listed(TEAM)), list[tuple[str, GroupRights]]()
    with trio.move_on_after(3.5 * EVERY):
        await follow_rights(cluster, lambda: ["shop"], "exclave", lambda *one: found.append(one))
    assert found == [("shop", GroupRights(())), ("shop", GroupRights((TEAM,)))]
    assert "RoleBindings in shop-vms: no server answers" in caplog.text
