"""What is tried before anything is made; what is then said is tried on real servers, in tests/peers."""

import pytest

from exclave.admin.install.preflight import can_dry_run
from exclave.admin.manifests import Installation, later_objects


@pytest.mark.parametrize(
    ("choice", "where"),
    [
        (Installation(), {None, "linkerd", "kube-system"}),
        (Installation("machines", "mesh", issuer="linkerd"), {None, "mesh", "kube-system"}),
    ],
)
def test_rights_are_tried_where_a_place_for_them_is_there_already(choice: Installation, where: set[str | None]) -> None:
    tried = [one for one in later_objects(choice) if can_dry_run(one, choice)]
    assert {one["kind"] for one in tried} == {"ClusterRole", "Role"}
    assert {one["metadata"].get("namespace") for one in tried} == where
