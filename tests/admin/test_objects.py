"""What an admin makes, and what those objects let whom do: their rights, gathered from Roles and bindings."""

from typing import Any

import pytest

from exclave.admin.objects import MOST_USES, Manifest, controller_objects, group_objects, join_account, rejoin_account
from exclave.api.names import CONTROLLER
from exclave.api.requests import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES

GROUP = group_objects("shop", "web", {"networks": ["10.0.0.0/8"]}, "exclave")
ALL = [*controller_objects("exclave", "linkerd", "exclave-issuer"), *GROUP]
MACHINE = "Group system:serviceaccounts:shop-vms"
THE_CONTROLLER = f"ServiceAccount {CONTROLLER}"


def rights(manifest: list[Manifest]) -> dict[tuple[str, str | None], set[str]]:
    """What each subject may do in each namespace (None: everywhere), as `verb resource[/name]`."""
    roles = {
        (one.resource.kind, one.namespace, one.body["metadata"]["name"]): one.body["rules"]
        for one in manifest
        if one.resource in (ROLES, CLUSTER_ROLES)
    }
    found: dict[tuple[str, str | None], set[str]] = {}
    for one in manifest:
        if one.resource not in (ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS):
            continue
        reference = one.body["roleRef"]
        for rule in roles[reference["kind"], one.namespace, reference["name"]]:
            for subject in one.body["subjects"]:
                who = f"{subject['kind']} {subject['name']}"
                found.setdefault((who, one.namespace), set()).update(_allowed(rule))
    return found


def _allowed(rule: dict[str, list[str]]) -> set[str]:
    names = [f"/{name}" for name in rule.get("resourceNames", [])] or [""]
    return {f"{verb} {kind}{name}" for verb in rule["verbs"] for kind in rule["resources"] for name in names}


def test_a_machine_may_do_this_and_nothing_more() -> None:
    found = {where: may for (who, where), may in rights(ALL).items() if who == MACHINE}
    assert found == {
        "shop": {
            *(f"{verb} members" for verb in ("create", "get", "watch", "patch", "delete")),
            *(f"{verb} externalworkloads/status" for verb in ("get", "patch")),
            *(f"{verb} leases" for verb in ("get", "patch")),
            "get configmaps/exclave-mesh.web",
        },
        "shop-vms": {"create serviceaccounts/token"},
    }


def test_the_controller_reads_one_secret_and_no_more_of_linkerd_than_it_publishes() -> None:
    found = {where: may for (who, where), may in rights(ALL).items() if who == THE_CONTROLLER}
    slices = {f"{verb} endpointslices" for verb in ("get", "list", "watch")}
    assert found["exclave"] == {
        *(f"{verb} secrets/exclave-issuer" for verb in ("get", "watch")),
        *(f"{verb} leases/exclave-controller" for verb in ("get", "update")),
        "create leases",
        "create events",
    }
    assert found["kube-system"] == slices
    assert found["linkerd"] == slices | {
        f"{verb} configmaps/{name}"
        for verb in ("get", "watch")
        for name in ("linkerd-config", "linkerd-identity-trust-roots")
    }
    assert found["shop"] == {
        *(f"create {kind}" for kind in ("configmaps", "leases", "externalworkloads", "events")),
        "patch configmaps/exclave-mesh.web",
        "list services",
    }
    assert found["shop-vms"] == {
        "list serviceaccounts",
        "create serviceaccounts",
        "delete serviceaccounts",
        "create serviceaccounts/token",
    }


def test_over_the_whole_cluster_the_controller_reads_and_undoes_and_makes_nothing() -> None:
    found = {where: may for (who, where), may in rights(ALL).items() if who == THE_CONTROLLER}
    assert {verb for verb, _, _ in (one.partition(" ") for one in found[None])} == {
        "get", "list", "watch", "patch", "delete",
    }  # fmt: skip


def test_nobody_gets_secrets_roles_or_wildcards_over_the_whole_cluster() -> None:
    for (_, where), may in rights(ALL).items():
        if where is None:
            assert not [one for one in may if any(word in one for word in ("secrets", "role", "*", "serviceaccounts"))]


def test_namespaces_come_before_what_lies_in_them_and_roles_before_their_bindings() -> None:
    for manifest in (GROUP, controller_objects("exclave", "linkerd", "exclave-issuer")):
        made = {one.body["metadata"]["name"] for one in manifest if one.resource.kind == "Namespace"}
        stand: set[str] = set()
        roles: set[tuple[str | None, str]] = set()
        for one in manifest:
            name = one.body["metadata"]["name"]
            if one.resource.kind == "Namespace":
                stand.add(name)
            assert one.namespace is None or one.namespace in stand or one.namespace not in made
            if one.resource.kind.endswith("Role"):
                roles.add((one.namespace, name))
            elif one.resource.kind.endswith("Binding"):
                assert (one.namespace, one.body["roleRef"]["name"]) in roles


def test_every_object_has_its_kind_and_namespace() -> None:
    for one in ALL:
        assert (one.body["apiVersion"], one.body["kind"]) == (one.resource.api_version, one.resource.kind)
        assert one.body["metadata"].get("namespace") == one.namespace
        assert one.resource.namespaced is (one.namespace is not None)


def find(manifest: list[Manifest], kind: str) -> list[Manifest]:
    return [one for one in manifest if one.resource.kind == kind]


def test_machines_accounts_live_apart_from_those_that_linkerd_certifies() -> None:
    names = [one.body["metadata"] for one in find(GROUP, "Namespace")]
    assert names == [
        {"name": "shop", "labels": {"exclave.dev/accounts": "shop-vms"}},
        {"name": "shop-vms", "labels": {"exclave.dev/machines": "shop"}},
    ]


@pytest.mark.parametrize(
    ("spec", "account"),
    [
        pytest.param({"networks": []}, "web", id="the group's own name"),
        pytest.param({"networks": [], "serviceAccount": "shopfront"}, "shopfront", id="the one that the group names"),
    ],
)
def test_the_account_whose_identity_members_have_is_made(spec: dict[str, Any], account: str) -> None:
    manifest = group_objects("shop", "web", spec, "exclave")
    assert [one.body["metadata"]["name"] for one in find(manifest, "ServiceAccount")] == [account]
    (group,) = find(manifest, "WorkloadGroup")
    assert group.body["spec"] == spec and group is manifest[-1]


def test_a_join_account_has_its_uses_in_the_name_and_its_expiry_in_an_annotation() -> None:
    manifest = join_account("shop", "web", "k7q2x", 3, 1_800_000_000.9)
    assert manifest.namespace == "shop-vms"
    assert manifest.body == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": "web.join.k7q2x-3",
            "namespace": "shop-vms",
            "annotations": {"exclave.dev/expires": "2027-01-15T08:00:00Z"},
        },
    }


def test_a_token_for_one_member_has_its_slot_in_the_name() -> None:
    manifest = rejoin_account("shop", "web-k7q2x-12", 1_800_000_000.9)
    assert manifest.namespace == "shop-vms"
    assert manifest.body["metadata"] == {
        "name": "web.rejoin.k7q2x-12",
        "namespace": "shop-vms",
        "annotations": {"exclave.dev/expires": "2027-01-15T08:00:00Z"},
    }


@pytest.mark.parametrize("uses", [0, -1, MOST_USES + 1])
def test_a_token_that_cannot_have_so_many_uses_is_not_made(uses: int) -> None:
    with pytest.raises(ValueError) as refused:
        join_account("shop", "web", "k7q2x", uses, 0.0)
    assert str(refused.value) == f"uses: a number from 1 to 999 was expected, found {uses}"
