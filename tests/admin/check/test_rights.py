"""The rows of `check` about rights."""

import copy
from typing import Any

import pytest

from exclave.admin.check.rights import (
    accounts_namespace_rows,
    controller_namespace_row,
    describe_change,
    excess_rights_rows,
    foreign_objects,
    foreign_rights_rows,
    index_objects,
    namespace_suffix_rows,
    pending_changes,
    rights_rows,
)
from exclave.admin.check.rows import Row
from exclave.admin.objects import Installation, group_objects
from exclave.api.requests import ROLE_BINDINGS, Object


def bad(rows: list[Row]) -> list[tuple[str, str]]:
    return [(one.result, one.problem) for one in rows if one.result != "success"]


SHOP = group_objects("shop", "web", {"networks": ["10.0.0.0/8"]}, "exclave")[:-1]


STANDS = index_objects([one.body for one in SHOP])


def changed(kind: str, namespace: str, name: str, **fields: Any) -> dict[tuple[str, str, str], Object]:
    found = copy.deepcopy(STANDS)
    found[kind, namespace, name] |= fields
    return found


def test_rights_as_created_are_no_fault() -> None:
    assert pending_changes(SHOP, STANDS) == []
    assert bad(rights_rows([], [])) == []


RULE = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}


EDITED: dict[str, tuple[dict[tuple[str, str, str], Object], list[str]]] = {
    "a Role with an additional rule": (
        changed("Role", "shop", "exclave-machines", rules=[*STANDS["Role", "shop", "exclave-machines"]["rules"], RULE]),
        ["Role exclave-machines in shop has been changed"],
    ),
    "a Role without a rule": (
        changed("Role", "shop-vms", "exclave-machines", rules=[]),
        ["Role exclave-machines in shop-vms has been changed"],
    ),
    "a binding with another subject": (
        changed("RoleBinding", "shop-vms", "exclave-controller", subjects=[]),
        ["RoleBinding exclave-controller in shop-vms has been changed"],
    ),
    "a namespace without its label": (
        changed("Namespace", "", "shop-vms", metadata={"name": "shop-vms"}),
        ["Namespace shop-vms has been changed"],
    ),
    "a Role that is gone": (
        {key: one for key, one in STANDS.items() if key != ("Role", "shop", "exclave-publisher.web")},
        ["Role exclave-publisher.web in shop is missing"],
    ),
    "the mesh's account that is gone": (
        {key: one for key, one in STANDS.items() if key != ("ServiceAccount", "shop", "web")},
        ["ServiceAccount web in shop is missing"],
    ),
}


@pytest.mark.parametrize(("found", "words"), EDITED.values(), ids=EDITED)
def test_edited_rights_are_named(found: dict[tuple[str, str, str], Object], words: list[str]) -> None:
    steps = pending_changes(SHOP, found)
    assert [describe_change(step) for step in steps] == words
    assert bad(rights_rows([], steps)) == [("error", words[0])]


def test_a_fault_of_a_shared_object_is_listed_once() -> None:
    steps = pending_changes([*SHOP, *SHOP], changed("Role", "shop-vms", "exclave-machines", rules=[]))
    assert bad(rights_rows([], steps)) == [("error", "Role exclave-machines in shop-vms has been changed")]


def test_the_controllers_rights_have_a_row_of_their_own() -> None:
    rights = Installation().rights
    stands = index_objects([copy.deepcopy(one.body) for one in rights])
    assert pending_changes(rights, stands) == []
    stands["ClusterRole", "", "exclave-controller"]["rules"].append(RULE)
    rows = rights_rows(pending_changes(rights, stands), [])
    assert bad(rows) == [("error", "ClusterRole exclave-controller has been changed")]
    assert rows[0].title == "the controller's rights are as installed"


def binding(name: str, role: str, *subjects: dict[str, str], namespace: str | None = None) -> Object:
    where = {} if namespace is None else {"namespace": namespace}
    return {
        "kind": "ClusterRoleBinding" if namespace is None else "RoleBinding",
        "metadata": {"name": name, **where},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": list(subjects),
    }


def group(name: str) -> dict[str, str]:
    return {"kind": "Group", "name": name}


ROBOT = {"kind": "ServiceAccount", "name": "web.vm.k7q2x-1", "namespace": "shop-vms"}


REACHING = {
    "a public role of every cluster for all users": (
        binding("discovery", "system:discovery", group("system:authenticated")), None,
    ),
    "a public role of every cluster for all accounts": (
        binding("issuer", "system:service-account-issuer-discovery", group("system:serviceaccounts")), None,
    ),
    "an application's own": (
        binding("app", "edit", {"kind": "ServiceAccount", "name": "app", "namespace": "shop"}, namespace="shop"), None,
    ),
    "another namespace's accounts": (binding("ci", "edit", group("system:serviceaccounts:ci"), namespace="shop"), None),
    "our own": (SHOP[4].body, None),
    "every account, everywhere": (
        binding("handy", "view", group("system:serviceaccounts")), "ClusterRoleBinding handy: view",
    ),
    "everybody, in one namespace": (
        binding("handy", "edit", group("system:authenticated"), namespace="shop"), "RoleBinding handy in shop: edit",
    ),
    "machines' accounts, as a group": (
        binding("more", "edit", group("system:serviceaccounts:shop-vms"), namespace="shop"),
        "RoleBinding more in shop: edit",
    ),
    "one machine's account": (binding("one", "edit", ROBOT, namespace="lab"), "RoleBinding one in lab: edit"),
    "one machine's account by its user name": (
        binding("one", "edit", {"kind": "User", "name": "system:serviceaccount:shop-vms:web.vm.k7q2x-1"}),
        "ClusterRoleBinding one: edit",
    ),
    "a name of ours in a namespace where it is not": (
        binding("exclave-machines", "edit", group("system:serviceaccounts:shop-vms"), namespace="lab"),
        "RoleBinding exclave-machines in lab: edit",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("found", "words"), REACHING.values(), ids=REACHING)
def test_a_right_that_reaches_machines_is_named(found: Object, words: str | None) -> None:
    assert bad(excess_rights_rows([found], ["shop-vms"], SHOP)) == ([] if words is None else [("warning", words)])


def test_rights_of_others_among_machines_accounts_are_an_error_until_an_admin_accepts_them() -> None:
    eve = {"kind": "User", "name": "eve"}
    team = {
        "kind": "RoleBinding", "metadata": {"name": "team", "namespace": "shop-vms"},
        "roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": [eve],
    }  # fmt: skip
    elsewhere = [{**team, "metadata": {"name": "team", "namespace": "shop"}}, {**team, "kind": "ClusterRoleBinding"}]
    ours = [one.body for one in group_objects("shop", "web", {}, "exclave") if one.resource is ROLE_BINDINGS]
    web = {"metadata": {"name": "web", "namespace": "shop"}}
    assert bad(foreign_rights_rows([web], [*ours, *elsewhere], "exclave")) == []
    words = "group shop/web: RoleBinding team (ClusterRole admin): User eve"
    assert bad(foreign_rights_rows([web], [*ours, team], "exclave")) == [("error", words)]
    web["metadata"]["annotations"] = {"exclave.dev/adopted": "team"}  # type: ignore[assignment]
    assert bad(foreign_rights_rows([web], [*ours, team], "exclave")) == []


def test_foreign_namespaces_with_our_suffix_are_named() -> None:
    ours = {"metadata": {"name": "shop-vms", "labels": {"exclave.dev/machines": "shop"}}}
    assert bad(namespace_suffix_rows([ours, {"metadata": {"name": "shop"}}])) == []
    assert bad(namespace_suffix_rows([ours, {"metadata": {"name": "tools-vms"}}])) == [("warning", "tools-vms")]


def test_foreign_objects_beside_machines_accounts_are_named() -> None:
    names = ("default", "web.vm.k7q2x-1", "web.join.k7q2x-20", "web.rejoin.k7q2x-1")
    accounts = [{"metadata": {"name": name}} for name in names]
    assert foreign_objects("shop-vms", accounts, []) == []
    odd = foreign_objects(
        "shop-vms", [*accounts, {"metadata": {"name": "web.vm"}}], [{"metadata": {"name": "operator-1"}}]
    )
    assert bad(accounts_namespace_rows(odd)) == [
        ("warning", "Pod operator-1 in shop-vms, ServiceAccount web.vm in shop-vms")
    ]


def controllers(*, labels: dict[str, str], **annotations: str) -> Object:
    return {"kind": "Namespace", "metadata": {"name": "exclave", "labels": labels, "annotations": annotations}}


OPS: Object = {
    "kind": "RoleBinding",
    "metadata": {"name": "ops", "namespace": "exclave"},
    "roleRef": {"kind": "ClusterRole", "name": "edit"},
    "subjects": [{"kind": "User", "name": "eve"}],
}
OURS = {"exclave.dev/installation": "exclave"}
MAY_SIGN = "may be able to sign certificates of the mesh"
DELETE_IT = "delete the namespace, or accept it: kubectl exclave install --adopt"
CONTROLLERS: dict[str, tuple[Object, list[Object], bool, str, str]] = {
    "one that install has made": (controllers(labels=OURS), [], True, "", ""),
    "one of an earlier version": (controllers(labels={"linkerd.io/extension": "exclave"}), [], True, "", ""),
    "one that somebody has made": (
        controllers(labels={}), [], False,
        f"who has rights in namespace exclave, which somebody else has made, {MAY_SIGN}", DELETE_IT,
    ),
    "one that somebody has made, with the controller's account and rights": (
        controllers(labels={"exclave.dev/installation": "other"}), [OPS], True,
        f"who has rights in namespace exclave, which somebody else has made, {MAY_SIGN}; found: "
        "RoleBinding ops (ClusterRole edit): User eve; ServiceAccount exclave-controller",
        DELETE_IT,
    ),
    "rights of others in ours": (
        controllers(labels=OURS, **{"exclave.dev/adopted": "old"}), [OPS], True,
        f"who has rights in namespace exclave {MAY_SIGN}; found: RoleBinding ops (ClusterRole edit): User eve",
        "delete these, or accept them: kubectl annotate namespace exclave --overwrite exclave.dev/adopted=old,ops",
    ),
    "rights that were accepted": (controllers(labels=OURS, **{"exclave.dev/adopted": "ops"}), [OPS], True, "", ""),
}  # fmt: skip


@pytest.mark.parametrize("may_share", [False, True])
@pytest.mark.parametrize(("found", "foreign", "has_account", "problem", "hint"), CONTROLLERS.values(), ids=CONTROLLERS)
def test_the_controllers_namespace_is_its_own(
    found: Object, foreign: list[Object], has_account: bool, problem: str, hint: str, may_share: bool
) -> None:
    row = controller_namespace_row(found, foreign, has_account=has_account, may_share=may_share)
    result = "success" if not problem else "warning" if may_share else "error"
    assert (row.result, row.problem, row.hint) == (result, problem, hint)
