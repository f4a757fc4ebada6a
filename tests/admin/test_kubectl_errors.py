"""What kubectl prints, and the error that an admin reads. The texts are in golden/kubectl_errors.txt."""

from pathlib import Path

import pytest

from exclave.admin.kubectl_errors import (
    STATUSES,
    FieldConflicts,
    FieldOwner,
    KubectlAction,
    kubectl_error,
    kubectl_missing_error,
    kubectl_timeout_error,
)
from exclave.api.requests import EXTERNAL_WORKLOADS, MEMBERS, PODS, SERVICE_ACCOUNTS, WORKLOAD_GROUPS
from exclave.errors import ApiRefusal, Fault

KINDS = {kind.plural: kind for kind in (EXTERNAL_WORKLOADS, MEMBERS, PODS, WORKLOAD_GROUPS)}
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "kubectl_errors.txt"
CASES = [paragraph.split("\n") for paragraph in GOLDEN.read_text().strip().split("\n\n")[2:]]
READ = KubectlAction("list", PODS, "shop")


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_failure_of_kubectl_is_an_error_with_message_and_hint(case: list[str]) -> None:
    _, asked, printed, kind, message, hint = case
    verb, plural, namespace, name = [*asked.split(), "", ""][:4]
    stderr = "" if printed == "-" else printed.replace("\\n", "\n")
    error = kubectl_error(KubectlAction(verb, KINDS[plural], namespace or None, name), stderr)
    status, reason, fault = kind.split()
    assert (error.fault.word, error.message, error.hint) == (fault, message, hint)
    if status == "-":
        assert not isinstance(error, ApiRefusal)
    else:
        assert isinstance(error, ApiRefusal)
        assert (str(error.status), error.reason or "-") == (status, reason)


def test_a_missing_kubectl_is_reported_with_where_to_find_it() -> None:
    error = kubectl_missing_error("kubectl")
    assert (error.fault, error.message) == (Fault.USAGE, "the program kubectl was not found on the PATH")
    assert error.hint.startswith("install kubectl: https://kubernetes.io/docs/tasks/tools/")


def test_a_kubectl_that_does_not_end_is_an_error() -> None:
    error = kubectl_timeout_error(READ, 300.0)
    assert error.fault is Fault.UNREACHABLE
    assert error.message == "kubectl was asked to list pods in namespace shop and did not end within 300s"
    assert error.hint == "check whether kubectl works, and whether it asks you to log in: kubectl get namespaces"


def test_a_subresource_is_named_as_rbac_names_it() -> None:
    action = KubectlAction("create", SERVICE_ACCOUNTS, "shop-vms", "a", "token")
    assert str(action) == "create serviceaccounts/token a in namespace shop-vms"


REVIEW = (
    "Please review the fields above--they currently have other managers. Here\nare the ways you can resolve this "
    'warning:\n* You may co-own fields; in this case, conflicts with "nobody":\n- .spec\n'
)
CONFLICTS = {
    "a program that updates": (
        f'error: Apply failed with 1 conflict: conflict with "kubectl-edit" using v1 at 2026-12-01T02:37:09Z: .data.z\n'
        f"{REVIEW}",
        (FieldOwner("kubectl-edit", (".data.z",), applies=False),),
    ),
    "a program that applies, and one that updates a status": (
        'Apply failed with 3 conflicts: conflicts with "argocd-controller":\n- .data.x\n'
        '- .spec.containers[name="a: b"].image\nconflicts with "helm" with subresource "status" using v1:\n- .data.z\n'
        f"{REVIEW}",
        (
            FieldOwner("argocd-controller", (".data.x", '.spec.containers[name="a: b"].image'), applies=True),
            FieldOwner("helm", (".data.z",), applies=False),
        ),
    ),
    "two objects": (
        f'Apply failed with 1 conflict: conflict with "a": .x\n{REVIEW}'
        f'Apply failed with 1 conflict: conflict with "b": .y\n{REVIEW}',
        (FieldOwner("a", (".x",), applies=True), FieldOwner("b", (".y",), applies=True)),
    ),
}


@pytest.mark.parametrize(("stderr", "owners"), CONFLICTS.values(), ids=CONFLICTS)
def test_owners_of_fields_are_read_from_conflicts(stderr: str, owners: tuple[FieldOwner, ...]) -> None:
    """As kubectl 1.37 prints them."""
    error = kubectl_error(KubectlAction("apply these objects"), stderr)
    assert isinstance(error, FieldConflicts)
    assert (error.owners, error.status, error.reason) == (owners, 409, "Conflict")
    assert all(owner.manager in error.message for owner in owners)


def test_a_long_text_is_cut() -> None:
    error = kubectl_error(READ, "Error from server (BadRequest): " + "x" * 5000)
    assert len(error.message) < 1100


def test_every_reason_has_the_status_of_an_error() -> None:
    assert all(400 <= status < 600 for status in STATUSES.values())
