"""What an installation consists of, and in which order."""

from typing import Any

import pytest

from exclave import __version__
from exclave.admin.manifests import (
    IMAGE,
    KINDS,
    Installation,
    KeyPair,
    first_objects,
    is_ours,
    later_objects,
    read_installation,
)
from exclave.api.requests import Object

ADMINS_KEY = Installation(key_pair=KeyPair("chain", "the key itself"))
CHOICES = {
    "a key given once": ADMINS_KEY,
    "cert-manager": Installation(issuer="cert-manager", issued_by="ClusterIssuer/anchor"),
    "Linkerd's own": Installation(issuer="linkerd"),
}


def named(choice: Installation) -> dict[tuple[str, str], Object]:
    return {(one["kind"], one["metadata"]["name"]): one for one in later_objects(choice)}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_policies_come_before_any_right_and_rights_before_whoever_has_them(choice: Installation) -> None:
    kinds = [one["kind"] for one in later_objects(choice)]
    assert max(i for i, kind in enumerate(kinds) if kind.startswith("Validating")) < kinds.index("Namespace")
    assert kinds.index("Namespace") < kinds.index("ClusterRole") < kinds.index("Deployment")
    assert {one["kind"] for one in (*first_objects(), *later_objects(choice))} <= KINDS.keys()


def test_linkerd_finds_the_extension_by_its_label() -> None:
    assert named(ADMINS_KEY)["Namespace", "exclave"]["metadata"]["labels"] == {"linkerd.io/extension": "exclave"}


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


def test_linkerds_own_issuer_is_read_where_it_is_and_nothing_else_there() -> None:
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


def test_the_controllers_are_two_run_as_nobody_and_can_write_nothing() -> None:
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
def test_what_was_chosen_is_read_back_from_the_deployment(choice: Installation) -> None:
    assert read_installation(named(choice)["Deployment", "exclave-controller"]) == choice


def test_the_image_has_the_version_and_differs_from_an_admins_own() -> None:
    assert IMAGE.partition(":")[2] == __version__
    ours = ("ghcr.io/exclave/controller:0.0.1", "ghcr.io/exclave/controller", IMAGE)
    assert all(is_ours(image) for image in (*ours, f"{IMAGE}@sha256:{'0' * 64}"))
    assert not any(is_ours(image) for image in ("registry.example/controller:1", "localhost:5000/controller"))
