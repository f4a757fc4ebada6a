"""Snapshots that are read from objects of any shape."""

import pytest

from exclave.controller.policy.snapshot import workload_ports

from ..snapshots import ADDRESS, GROUP, MESH, NAME, make_member, make_snapshot


def test_members_of_a_group_are_called_after_its_account_and_linkerds_domain() -> None:
    identity = MESH.identity_of(GROUP)
    assert identity.spiffe_id == "spiffe://cluster.local/ns/shop/sa/web"
    assert identity.dns_name == "web.shop.serviceaccount.identity.linkerd.cluster.local"


def test_a_world_shows_its_member() -> None:
    snapshot = make_snapshot()
    assert (snapshot.view.name, snapshot.view.addresses, snapshot.namespace) == (NAME, (ADDRESS,), "shop")


@pytest.mark.parametrize("status", [None, "text", []])
def test_a_status_that_is_none_is_empty(status: object) -> None:
    assert make_snapshot({**make_member(), "status": status}).status == {}


def test_what_has_changed_is_another_world() -> None:
    snapshot = make_snapshot()
    assert snapshot.replaced(has_lease=True).has_lease
    assert not snapshot.has_lease


def test_a_sealed_credential_does_not_show() -> None:
    assert "sealed credential" not in repr(make_snapshot(sealed="sealed credential"))


@pytest.mark.parametrize(
    ("workload", "ports"),
    [
        pytest.param(None, (), id="none has no ports"),
        pytest.param({"spec": None}, (), id="nor one without a spec"),
        pytest.param({"spec": {"ports": None}}, (), id="one without a list"),
        pytest.param({"spec": {"ports": [{"port": 80}, {"name": "db", "port": 5432}]}}, (80, 5432), id="in order"),
    ],
)
def test_ports(workload: dict[str, object] | None, ports: tuple[int, ...]) -> None:
    assert workload_ports(workload) == ports
