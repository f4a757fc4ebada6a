"""`group …` against the sandbox's API server; tests/peers runs the same against real ones."""

import json
from typing import Any

import pytest
import yaml

from exclave.admin.group.verbs import TITLES, accepted_words, broken_lines, group_lines, group_row
from exclave.admin.main import build_parser
from exclave.admin.objects import Installation, group_objects, later_objects
from exclave.admin.session import Session
from exclave.admin.token.verbs import token_accounts
from exclave.api.group import parse_group
from exclave.api.requests import (
    DEPLOYMENTS,
    MEMBERS,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
    WORKLOAD_GROUPS,
    Object,
    Resource,
)
from exclave.errors import ExclaveError
from peers.conftest import Server
from support.admin import Admin, put
from support.store import member

SPEC = ("--network", "10.0.0.0/8", "--port", "name=http,port=8080", "--label", "app=web")
WANTED = {"networks": ["10.0.0.0/8"], "ports": [{"name": "http", "port": 8080}], "labels": {"app": "web"}}
NO_GUARD = (
    "warning: exclave's admission policies are not installed; without them the controller admits no machine: "
    "kubectl exclave install\n"
)


@pytest.fixture
def group(server: Server, namespace: str) -> None:
    """What the first command of `test_a_group_is_created_with_everything_it_needs` makes."""
    put(server, group_objects(namespace, "web", WANTED, "exclave"))


def test_a_group_is_created_with_everything_it_needs(admin: Admin, namespace: str) -> None:
    typed = admin.type("group", "create", "web", "-n", namespace, *SPEC)
    assert typed.code == 0
    assert typed.err == NO_GUARD + f"to let a machine join: kubectl exclave token create web -n {namespace}\n"
    lines = typed.out.splitlines()
    assert lines[:3] == [
        f"namespace/{namespace} created",
        f"namespace/{namespace}-vms created",
        f"serviceaccount/web in {namespace} created",
    ]
    assert lines[-1] == f"workloadgroup.exclave.dev/web in {namespace} created"
    for manifest in group_objects(namespace, "web", WANTED, "exclave"):
        found = admin.kubectl.get(manifest.resource, manifest.namespace, manifest.body["metadata"]["name"])
        assert found is not None
        for key in ("spec", "rules", "subjects", "roleRef"):
            if manifest.resource is not NAMESPACES:
                assert found.get(key) == manifest.body.get(key)


@pytest.mark.usefixtures("group")
def test_creating_again_changes_only_fields_that_differ(admin: Admin, namespace: str) -> None:
    again = admin.type("group", "create", "web", "-n", namespace, *SPEC)
    assert (again.code, again.out) == (0, f"workloadgroup.exclave.dev/web in {namespace} unchanged\n")
    admin.kubectl.patch(ROLES, namespace, "exclave-machines", {"rules": []})
    admin.kubectl.patch(WORKLOAD_GROUPS, namespace, "web", {"spec": {"forgetAfter": "1h"}})
    changed = admin.type("group", "create", "web", "-n", namespace, "--port", "9090", "--label", "tier=1")
    assert (changed.code, changed.out) == (
        0,
        f"role.rbac.authorization.k8s.io/exclave-machines in {namespace} changed: rules\n"
        f"workloadgroup.exclave.dev/web in {namespace} changed: spec.ports, spec.labels\n",
    )
    found = admin.kubectl.get(WORKLOAD_GROUPS, namespace, "web")
    assert found is not None
    assert found["spec"] == {
        "networks": ["10.0.0.0/8"],
        "ports": [{"name": "9090", "port": 9090}],
        "labels": {"tier": "1"},
        "forgetAfter": "1h",
    }


@pytest.mark.usefixtures("group")
def test_a_binding_of_another_role_stops_the_command(admin: Admin, namespace: str) -> None:
    found = admin.kubectl.get(ROLE_BINDINGS, namespace, "exclave-machines")
    assert found is not None
    admin.kubectl.delete(ROLE_BINDINGS, namespace, "exclave-machines")
    body = {"metadata": {"name": "exclave-machines"}, "roleRef": {**found["roleRef"], "name": "other"}}
    admin.kubectl.create(ROLE_BINDINGS, namespace, body)
    typed = admin.type("group", "create", "web", "-n", namespace)
    assert typed.code == 2
    assert typed.err.removeprefix(NO_GUARD) == (
        f"exclave: rolebinding.rbac.authorization.k8s.io/exclave-machines in {namespace} has another roleRef, which "
        "cannot be changed\n"
        "  to do: check whether it is still needed; if not: kubectl delete rolebindings exclave-machines "
        f"-n {namespace}\n"
    )


def test_a_dry_run_prints_the_objects_and_creates_none(admin: Admin, namespace: str) -> None:
    typed = admin.type("group", "create", "web", "-n", namespace, *SPEC, "--dry-run")
    wanted = [manifest.body for manifest in group_objects(namespace, "web", WANTED, "exclave")]
    assert (typed.code, typed.err, list(yaml.safe_load_all(typed.out))) == (0, "", wanted)
    assert admin.kubectl.get(NAMESPACES, None, namespace) is None


def test_a_surprise_is_a_warning_before_objects_are_created(admin: Admin, namespace: str) -> None:
    admin.kubectl.create(NAMESPACES, None, {"metadata": {"name": namespace}})
    spec = {"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 8080}]}
    admin.kubectl.create(SERVICES, namespace, {"metadata": {"name": "front"}, "spec": spec})
    typed = admin.type("group", "create", "web", "-n", namespace, *SPEC)
    assert typed.code == 0
    assert typed.err.startswith("warning: Service front is headless and selects group web: ")


EVE = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}
ADMIN = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}
WHO = "RoleBinding team (ClusterRole admin): User eve"


def put_binding(admin: Admin, namespace: str, name: str = "team") -> None:
    body = {"metadata": {"name": name}, "roleRef": ADMIN, "subjects": [EVE]}
    admin.kubectl.create(ROLE_BINDINGS, namespace, body)


def test_a_namespace_of_accounts_that_somebody_else_rules_is_adopted_only_on_request(
    admin: Admin, namespace: str
) -> None:
    accounts = f"{namespace}-vms"
    admin.kubectl.create(NAMESPACES, None, {"metadata": {"name": accounts}})
    put_binding(admin, accounts)
    typed = admin.type("group", "create", "web", "-n", namespace, *SPEC)
    assert (typed.code, typed.out) == (2, "")
    assert f"{accounts}, which somebody else has made: who has rights in it can be any machine of the group; " in (
        typed.err
    )
    assert f"found: {WHO}\n  to do: delete the namespace, or accept it: --adopt\n" in typed.err
    assert admin.kubectl.get(NAMESPACES, None, namespace) is None, "nothing was created"
    typed = admin.type("group", "create", "web", "-n", namespace, *SPEC, "--adopt")
    assert typed.code == 0, typed.err
    assert f"warning: who has rights in namespace {accounts} can be any machine of the group: {WHO}\n" in typed.err
    assert adopted(admin, namespace) == "team"


def adopted(admin: Admin, namespace: str) -> str | None:
    found = admin.kubectl.get(WORKLOAD_GROUPS, namespace, "web")
    assert found is not None
    return (found["metadata"].get("annotations") or {}).get("exclave.dev/adopted")


@pytest.mark.usefixtures("group")
def test_what_an_admin_has_accepted_stays_accepted_and_more_is_refused(admin: Admin, namespace: str) -> None:
    put_binding(admin, f"{namespace}-vms")
    create = ("group", "create", "web", "-n", namespace, *SPEC)
    assert admin.type(*create).code == 2
    assert admin.type(*create, "--adopt").code == 0
    assert admin.type(*create).code == 0
    put_binding(admin, f"{namespace}-vms", "ops")
    refused = admin.type(*create)
    assert refused.code == 2
    assert "found: RoleBinding ops (ClusterRole admin): User eve\n" in refused.err
    for name in ("ops", "team"):
        admin.kubectl.delete(ROLE_BINDINGS, f"{namespace}-vms", name)
    assert admin.type(*create).code == 0
    assert adopted(admin, namespace) is None


def test_accounts_that_are_older_than_their_group_are_not_adopted_silently(admin: Admin, namespace: str) -> None:
    accounts = f"{namespace}-vms"
    labels = {"exclave.dev/machines": namespace}
    admin.kubectl.create(NAMESPACES, None, {"metadata": {"name": accounts, "labels": labels}})
    for name in ("web.join.k7q2x-20", "api.join.k7q2x-20"):
        admin.kubectl.create(SERVICE_ACCOUNTS, accounts, {"metadata": {"name": name}})
    typed = admin.type("group", "create", "web", "-n", namespace, *SPEC)
    assert typed.code == 2
    assert "; found: ServiceAccount web.join.k7q2x-20\n" in typed.err


def test_who_has_rights_in_the_groups_own_namespace_is_named_once(admin: Admin, namespace: str) -> None:
    admin.kubectl.create(NAMESPACES, None, {"metadata": {"name": namespace}})
    put_binding(admin, namespace)
    words = f"warning: namespace {namespace} exists already; who has rights in it has them over the group: {WHO}\n"
    assert words in admin.type("group", "create", "web", "-n", namespace, *SPEC).err
    assert words not in admin.type("group", "create", "web", "-n", namespace, *SPEC).err


def test_a_dry_run_cannot_adopt(admin: Admin, namespace: str) -> None:
    typed = admin.type("group", "create", "web", "-n", namespace, *SPEC, "--dry-run", "--adopt")
    assert (typed.code, typed.out) == (2, "")
    assert "annotate the group: exclave.dev/adopted" in typed.err


def test_a_namespace_that_no_group_may_have_is_refused_without_the_cluster(admin: Admin) -> None:
    typed = admin.type("group", "create", "web", *SPEC, "-n", "kube-system", search="/nowhere")
    assert typed == (
        2,
        "",
        "exclave: namespace kube-system is no place for machines: it belongs to the cluster itself, or to nobody in "
        "particular\n  to do: name the namespace of the application: -n NAMESPACE\n",
    )


def put_member(admin: Admin, namespace: str, name: str, **metadata: Any) -> None:
    body = member(name)
    body["metadata"] |= {"namespace": namespace, **metadata}
    admin.kubectl.create(MEMBERS, namespace, body)


class Installed:
    """A cluster that has the controller's Deployment, and answers nothing else."""

    def __init__(self, deployment: Object) -> None:
        self._deployment = deployment

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        assert (resource, namespace, name) == (DEPLOYMENTS, "exclave", "exclave-controller")
        return self._deployment


def test_no_group_may_be_in_linkerds_namespace_of_any_name() -> None:
    choice = Installation(linkerd="mesh", issuer="linkerd")
    (deployment,) = [one.body for one in later_objects(choice) if one.resource is DEPLOYMENTS]
    options = build_parser("kubectl exclave").parse_args(["group", "create", "web", *SPEC])
    with pytest.raises(ExclaveError) as refused:
        options.run(Session(Installed(deployment), "mesh"), options)  # type: ignore[arg-type]
    assert refused.value.message.startswith("namespace mesh is no place for machines: it belongs to the cluster itself")


def test_groups_are_listed_with_their_members(admin: Admin, namespace: str, server: Server) -> None:
    assert admin.type("group", "list", "-n", namespace) == (0, "", f"no groups in namespace {namespace}\n")
    put(server, group_objects(namespace, "web", WANTED, "exclave"))
    put_member(admin, namespace, "web-k7q2x-1")
    (row,) = admin.rows("group", "list", "-n", namespace)
    del row["AGE"]
    assert row == {
        "NAME": "web",
        "ACCOUNT": "web",
        "PORTS": "http:8080",
        "NETWORKS": "10.0.0.0/8",
        "LIVE": "0/1",
        "ACCEPTED": "Unknown",
    }
    all_namespaces = admin.rows("group", "list", "-A")
    assert {"NAMESPACE": namespace, "LIVE": "0/1"}.items() <= next(
        one for one in all_namespaces if one["NAMESPACE"] == namespace
    ).items()
    named = admin.type("group", "list", "-n", namespace, "-o", "name")
    assert named.out == "workloadgroup.exclave.dev/web\n"


@pytest.mark.usefixtures("group")
def test_a_group_is_described(admin: Admin, namespace: str) -> None:
    put_member(admin, namespace, "web-k7q2x-1")
    selector = {"selector": {"app": "web"}, "ports": [{"port": 8080}]}
    admin.kubectl.create(SERVICES, namespace, {"metadata": {"name": "front"}, "spec": selector})
    described = admin.type("group", "describe", "web", "-n", namespace).out
    assert "\nServices:        front\n" in described
    assert "\nMembers:\n  NAME          GROUP" in described
    whole = admin.type("group", "describe", "web", "-n", namespace, "-o", "json")
    assert json.loads(whole.out) == admin.kubectl.get(WORKLOAD_GROUPS, namespace, "web")
    nobody = admin.type("group", "describe", "db", "-n", namespace)
    assert nobody == (
        2,
        "",
        f"exclave: there is no group db in namespace {namespace}\n  to do: list them: kubectl exclave group list -A\n",
    )


@pytest.mark.usefixtures("group")
def test_a_group_that_cannot_be_used_is_described_with_the_reason(admin: Admin, namespace: str) -> None:
    admin.kubectl.patch(WORKLOAD_GROUPS, namespace, "web", {"spec": {"networks": ["home"]}})
    typed = admin.type("group", "describe", "web", "-n", namespace)
    assert (typed.code, typed.out) == (
        0,
        f"Name:       web\nNamespace:  {namespace}\nSpec:       invalid: networks: 'home' does not appear to be "
        "an IPv4 or IPv6 network\nConditions: <none>\n",
    )


@pytest.mark.usefixtures("group")
def test_a_group_with_members_is_not_deleted(admin: Admin, namespace: str) -> None:
    put_member(admin, namespace, "web-k7q2x-1")
    typed = admin.type("group", "delete", "web", "-n", namespace)
    assert typed == (
        2,
        "",
        "exclave: group web has 1 member: web-k7q2x-1\n"
        "  to do: let them leave (exclave leave, on each machine), or evict them: --evict-members\n",
    )
    assert admin.kubectl.get(WORKLOAD_GROUPS, namespace, "web") is not None


@pytest.mark.usefixtures("group")
def test_a_group_is_deleted_with_its_members_tokens_and_rights(admin: Admin, namespace: str) -> None:
    put_member(admin, namespace, "web-k7q2x-1")
    admin.kubectl.create(SERVICE_ACCOUNTS, f"{namespace}-vms", {"metadata": {"name": "web.vm.k7q2x-1"}})
    admin.kubectl.create(SERVICE_ACCOUNTS, f"{namespace}-vms", {"metadata": {"name": "web.join.k7q2x-1"}})
    typed = admin.type("group", "delete", "web", "-n", namespace, "--evict-members")
    assert (typed.code, typed.out) == (
        0,
        f"serviceaccount web.join.k7q2x-1 in {namespace}-vms deleted\n"
        "member web-k7q2x-1 evicted\n"
        f"workloadgroup web in {namespace} deleted\n"
        f"rolebinding exclave-settings.web in {namespace} deleted\n"
        f"role exclave-settings.web in {namespace} deleted\n"
        f"rolebinding exclave-publisher.web in {namespace} deleted\n"
        f"role exclave-publisher.web in {namespace} deleted\n",
    )
    assert typed.err.endswith(
        f"not deleted: namespaces {namespace} and {namespace}-vms, the Roles in them that other groups use, and "
        "ServiceAccount web\n"
    )
    accounts = admin.kubectl.list(SERVICE_ACCOUNTS, f"{namespace}-vms")
    assert [one["metadata"]["name"] for one in accounts if "." in one["metadata"]["name"]] == []


NOW = 7200.0
FULL_SPEC = {
    "networks": ["10.0.0.0/8", "fd00::/8"],
    "labels": {"app": "web"},
    "ports": [{"name": "http", "port": 8080}, {"name": "5432", "port": 5432, "opaque": True}],
}
GROUP = {
    "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "1970-01-01T01:00:00Z"},
    "spec": FULL_SPEC,
}
LIVE = {"type": "Live", "status": "True"}
TWO_MEMBERS = [
    {"metadata": {"name": "web-k7q2x-1"}, "status": {"conditions": [LIVE]}},
    {"metadata": {"name": "web-k7q2x-2"}},
]


def accepted(status: str, reason: str) -> dict[str, object]:
    return {**GROUP, "status": {"conditions": [{"type": "Accepted", "status": status, "reason": reason}]}}


def test_a_row_counts_live_members() -> None:
    row = dict(zip(TITLES, group_row(GROUP, TWO_MEMBERS, NOW), strict=True))
    assert row == {
        "NAMESPACE": "shop",
        "NAME": "web",
        "ACCOUNT": "web",
        "PORTS": "http:8080,5432/opaque",
        "NETWORKS": "10.0.0.0/8,fd00::/8",
        "LIVE": "1/2",
        "ACCEPTED": "Unknown",
        "AGE": "60m",
    }


def test_why_a_group_is_not_accepted_is_its_reason() -> None:
    assert accepted_words(accepted("True", "Accepted")) == "True"
    assert accepted_words(accepted("False", "AccountShared")) == "AccountShared"


def test_an_invalid_group_is_described_with_the_reason() -> None:
    assert broken_lines(GROUP, "networks: none") == [
        ("Name", "web"),
        ("Namespace", "shop"),
        ("Spec", "invalid: networks: none"),
        ("Conditions", ""),
    ]


def test_a_description_is_complete() -> None:
    account = {"metadata": {"name": "web.join.k7q2x-5", "annotations": {"exclave.dev/expires": "1970-01-01T03:00:00Z"}}}
    service = {"metadata": {"name": "front"}}
    lines = dict(
        group_lines(GROUP, parse_group("web", FULL_SPEC), TWO_MEMBERS, token_accounts([account]), [service], NOW)
    )
    members, tokens = lines.pop("Members"), lines.pop("Tokens")
    assert lines == {
        "Name": "web",
        "Namespace": "shop",
        "Age": "60m",
        "Service account": "web",
        "Networks": "10.0.0.0/8, fd00::/8",
        "Ports": "http:8080, 5432/opaque",
        "Labels": "app=web, exclave.dev/group=web",
        "Certificates": "valid for 24h",
        "Capture": "cluster",
        "Inbound policy": "the mesh's",
        "Proxy cores": "the mesh's",
        "Probes": "",
        "On failure": "after 30s: outbound open, inbound closed",
        "Forgotten": "720h after the last heartbeat",
        "Conditions": "",
        "Services": "front",
    }
    assert [line.split()[0] for line in members.splitlines()] == ["NAME", "web-k7q2x-1", "web-k7q2x-2"]
    assert tokens.splitlines()[1].split()[:6] == ["k7q2x", "web", "5", "2", "in", "60m"]
