"""The objects that an admin creates, the rights that they grant, and the changes that existing objects need."""

from typing import Any

import pytest

from exclave import __version__
from exclave.admin.objects import (
    IMAGE,
    MOST_USES,
    Installation,
    KeyPair,
    Manifest,
    controller_objects,
    difference,
    first_objects,
    group_objects,
    group_roles,
    is_managed_by_helm,
    is_ours,
    join_account,
    later_objects,
    paths,
    plan_change,
    read_installation,
    rejoin_account,
)
from exclave.api.names import (
    ACCOUNTS_LABEL,
    ADMISSION_POLICY_NAMES,
    CONTROLLER,
    ELECTION,
    GROUPS_LABEL,
    settings_name,
)
from exclave.api.requests import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    WORKLOAD_GROUPS,
    Object,
)

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


def test_a_machine_has_exactly_these_rights() -> None:
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


def test_the_controller_reads_two_secrets_and_no_more_of_linkerd_than_it_publishes() -> None:
    found = {where: may for (who, where), may in rights(ALL).items() if who == THE_CONTROLLER}
    slices = {f"{verb} endpointslices" for verb in ("get", "list", "watch")}
    assert found["exclave"] == {
        *(f"{verb} secrets/exclave-issuer" for verb in ("get", "watch")),
        "create secrets",
        "get secrets/exclave-marks",
        *(f"{verb} leases/exclave-controller" for verb in ("get", "update")),
        "create leases",
        "create events",
    }
    assert found["kube-system"] == slices
    assert found["linkerd"] == slices | {"list pods"} | {
        f"{verb} configmaps/{name}"
        for verb in ("get", "watch")
        for name in ("linkerd-config", "linkerd-identity-trust-roots")
    }
    assert found["shop"] == {
        *(f"create {kind}" for kind in ("configmaps", "leases", "externalworkloads", "events")),
        *(f"{verb} configmaps/exclave-mesh.web" for verb in ("get", "watch", "patch", "delete")),
        "list services",
    }
    assert found["shop-vms"] == {
        "list serviceaccounts",
        "create serviceaccounts",
        "delete serviceaccounts",
        "create serviceaccounts/token",
        "list rolebindings",
    }


def test_in_the_whole_cluster_the_controller_creates_nothing() -> None:
    found = {where: may for (who, where), may in rights(ALL).items() if who == THE_CONTROLLER}
    assert {verb for verb, _, _ in (one.partition(" ") for one in found[None])} == {
        "get", "list", "watch", "patch", "delete",
    }  # fmt: skip


def test_no_right_in_the_whole_cluster_is_to_secrets_roles_or_wildcards() -> None:
    for (_, where), may in rights(ALL).items():
        if where is None:
            assert not [one for one in may if any(word in one for word in ("secrets", "role", "*", "serviceaccounts"))]


def test_namespaces_are_created_before_their_objects_and_roles_before_their_bindings() -> None:
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


def test_names_in_the_files_are_those_of_the_code() -> None:
    by_name = {(str(one.resource.kind), one.namespace, one.name): one.body for one in ALL}
    assert by_name["Namespace", None, "shop"]["metadata"]["labels"] == {GROUPS_LABEL: "shop-vms"}
    assert by_name["Namespace", None, "shop-vms"]["metadata"]["labels"] == {ACCOUNTS_LABEL: "shop"}
    for role in group_roles("web"):
        assert by_name["Role", "shop", role]["rules"][0]["resourceNames"] == [settings_name("web")]
    assert by_name["ServiceAccount", "exclave", CONTROLLER]
    names = [rule.get("resourceNames") for rule in by_name["ClusterRole", None, CONTROLLER]["rules"]]
    assert names.count(list(ADMISSION_POLICY_NAMES)) == 2
    leases = [rule for rule in by_name["Role", "exclave", CONTROLLER]["rules"] if "leases" in rule["resources"]]
    assert [rule.get("resourceNames") for rule in leases] == [None, [ELECTION]]
    assert "<" not in str(ALL)


def test_machines_accounts_are_not_in_a_namespace_that_linkerd_certifies() -> None:
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
def test_the_account_of_the_mesh_identity_is_created(spec: dict[str, Any], account: str) -> None:
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
def test_a_token_with_a_wrong_number_of_uses_is_not_created(uses: int) -> None:
    with pytest.raises(ValueError) as refused:
        join_account("shop", "web", "k7q2x", uses, 0.0)
    assert str(refused.value) == f"uses: a number from 1 to 999 was expected, found {uses}"


ADMINS_KEY = Installation(key_pair=KeyPair("chain", "the key itself"))
CHOICES = {
    "a key given once": ADMINS_KEY,
    "cert-manager": Installation(issuer="cert-manager", issued_by="ClusterIssuer/anchor"),
    "Linkerd's own": Installation(issuer="linkerd"),
}


def named(choice: Installation) -> dict[tuple[str, str], Object]:
    return {(one.resource.kind, one.name): one.body for one in later_objects(choice)}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_policies_are_created_before_rights_and_rights_before_the_deployment(choice: Installation) -> None:
    kinds = [one.resource.kind for one in later_objects(choice)]
    assert max(i for i, kind in enumerate(kinds) if kind.startswith("Validating")) < kinds.index("Namespace")
    assert kinds.index("Namespace") < kinds.index("ClusterRole") < kinds.index("Deployment")
    assert all(one.body["kind"] == one.resource.kind for one in (*first_objects(), *later_objects(choice)))


def test_linkerd_finds_the_extension_by_its_label_and_kubernetes_admits_restricted_pods_only() -> None:
    assert named(ADMINS_KEY)["Namespace", "exclave"]["metadata"]["labels"] == {
        "linkerd.io/extension": "exclave",
        "pod-security.kubernetes.io/enforce": "restricted",
    }


def test_the_admins_key_becomes_the_secret_that_the_controller_reads() -> None:
    secret = named(ADMINS_KEY)["Secret", "exclave-issuer"]
    assert (secret["type"], secret["data"]) == (
        "kubernetes.io/tls",
        {"tls.crt": "Y2hhaW4=", "tls.key": "dGhlIGtleSBpdHNlbGY="},
    )
    assert "the key itself" not in repr(ADMINS_KEY)


def test_cert_manager_makes_an_intermediate_under_the_issuer_that_is_named() -> None:
    certificate = named(CHOICES["cert-manager"])["Certificate", "exclave-issuer"]
    assert certificate["spec"]["isCA"] is True
    assert certificate["spec"]["issuerRef"] == {"kind": "ClusterIssuer", "name": "anchor"}
    assert ("Secret", "exclave-issuer") not in named(CHOICES["cert-manager"])


def test_linkerds_issuer_is_the_only_secret_read_in_its_namespace() -> None:
    found = named(CHOICES["Linkerd's own"])
    role = found["Role", "exclave-issuer"]
    assert role["metadata"]["namespace"] == "linkerd"
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "verbs": ["get", "watch"],
            "resourceNames": ["linkerd-identity-issuer"],
        }
    ]
    assert "--issuer=linkerd/linkerd-identity-issuer" in container(found)["args"]
    assert not [one for one in container(named(ADMINS_KEY))["args"] if one.startswith("--issuer")]


def container(found: dict[tuple[str, str], Object]) -> Any:
    (only,) = found["Deployment", "exclave-controller"]["spec"]["template"]["spec"]["containers"]
    return only


def test_two_controllers_run_as_nobody_with_a_read_only_root() -> None:
    deployment = named(ADMINS_KEY)["Deployment", "exclave-controller"]["spec"]
    assert deployment["replicas"] == 2
    assert deployment["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container(named(ADMINS_KEY))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


READ_BACK = {
    "as it comes": Installation(),
    "Linkerd's own issuer": Installation(issuer="linkerd"),
    "elsewhere, with an image and a number of one's own": Installation(
        "machines", "mesh", "registry.example/a:1", replicas=3, issuer="linkerd"
    ),
}


@pytest.mark.parametrize("choice", READ_BACK.values(), ids=READ_BACK)
def test_the_choices_are_read_back_from_the_deployment(choice: Installation) -> None:
    assert read_installation(named(choice)["Deployment", "exclave-controller"]) == choice


def test_the_image_has_the_version_and_differs_from_an_admins_own() -> None:
    assert IMAGE.partition(":")[2] == __version__
    ours = ("ghcr.io/exclave/controller:0.0.1", "ghcr.io/exclave/controller", IMAGE)
    assert all(is_ours(image) for image in (*ours, f"{IMAGE}@sha256:{'0' * 64}"))
    assert not any(is_ours(image) for image in ("registry.example/controller:1", "localhost:5000/controller"))


def group(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": WORKLOAD_GROUPS.api_version,
        "kind": "WorkloadGroup",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    }


WANTED = Manifest(WORKLOAD_GROUPS, "shop", group(networks=["10.0.0.0/8"], labels={"app": "web"}))


def test_a_missing_object_is_created() -> None:
    step = plan_change(WANTED, None)
    assert (step.verb, str(step)) == ("create", "workloadgroup.exclave.dev/web in shop created")


def test_a_matching_object_is_unchanged_with_all_fields_of_others() -> None:
    found = group(networks=["10.0.0.0/8"], labels={"app": "web", "tier": "1"}, forgetAfter="1h")
    found["metadata"] |= {"uid": "1", "labels": {"team": "a"}}
    step = plan_change(WANTED, found)
    assert (step.verb, str(step)) == ("none", "workloadgroup.exclave.dev/web in shop unchanged")


def test_only_fields_that_differ_are_patched_and_listed() -> None:
    step = plan_change(WANTED, group(networks=["10.1.0.0/16"], labels={"app": "web"}, capture="all"))
    assert step.patch == {"spec": {"networks": ["10.0.0.0/8"]}}
    assert (step.verb, str(step)) == ("patch", "workloadgroup.exclave.dev/web in shop changed: spec.networks")


def test_a_label_of_a_namespace_is_added_and_its_spec_left_alone() -> None:
    wanted = Manifest(
        NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"x": "1"}}}
    )
    found = {"metadata": {"name": "a", "labels": {"y": "2"}}, "spec": {"finalizers": ["kubernetes"]}}
    step = plan_change(wanted, found)
    assert step.patch == {"metadata": {"labels": {"x": "1"}}}
    assert str(step) == "namespace/a changed: metadata.labels"


def test_another_role_of_a_binding_blocks_the_change() -> None:
    body = {"metadata": {"name": "b"}, "roleRef": {"name": "ours"}, "subjects": []}
    step = plan_change(Manifest(ROLE_BINDINGS, "shop", body), {**body, "roleRef": {"name": "theirs"}})
    assert step.verb == "blocked"
    assert str(step) == ("rolebinding.rbac.authorization.k8s.io/b in shop has another roleRef, which cannot be changed")


@pytest.mark.parametrize(
    ("wanted", "found", "patch"),
    [
        pytest.param({"a": 1}, {"a": 1, "b": 2}, {}, id="other fields are not changed"),
        pytest.param({"a": {"b": None}}, {"a": {"b": 1}}, {"a": {"b": None}}, id="None removes a key"),
        pytest.param({"a": {"b": None}}, {"a": {}}, {}, id="None for an absent key is no change"),
        pytest.param({"a": [1]}, {"a": [1, 2]}, {"a": [1]}, id="a list is replaced whole"),
        pytest.param({"a": {"b": 1}}, {}, {"a": {"b": 1}}, id="a tree is added whole"),
    ],
)
def test_only_wanted_fields_are_in_the_difference(
    wanted: dict[str, Any], found: dict[str, Any], patch: dict[str, Any]
) -> None:
    assert difference(wanted, found) == patch


def test_paths_are_two_levels_deep() -> None:
    assert paths({"spec": {"labels": {"a": "b"}, "ports": []}, "rules": []}) == ["spec.labels", "spec.ports", "rules"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, False),
        ({"app.kubernetes.io/name": CONTROLLER}, False),
        ({"app.kubernetes.io/managed-by": "Helm"}, True),
        ({"app.kubernetes.io/managed-by": "flux"}, False),
    ],
)
def test_a_deployment_of_a_helm_release_is_recognized(labels: Object | None, expected: bool) -> None:
    assert is_managed_by_helm({"metadata": {"name": CONTROLLER, "labels": labels}}) is expected
