"""The choices of `install` and `upgrade`; tests/peers installs on real servers."""

import base64
from pathlib import Path

import pytest
import yaml

from exclave.admin.install.verbs import can_dry_run
from exclave.admin.objects import Installation, later_objects
from support.admin import Admin
from support.mesh import mesh


def test_a_dry_run_prints_all_objects_policies_before_rights_without_the_cluster(tmp_path: Path) -> None:
    nobody = Admin(tmp_path / "no-kubeconfig")
    typed = nobody.type("install", "--use-linkerd-issuer", "--dry-run")
    assert typed.code == 0, typed.err
    kinds = [one["kind"] for one in yaml.safe_load_all(typed.out)]
    assert kinds[:2] == ["CustomResourceDefinition"] * 2
    assert kinds.index("ValidatingAdmissionPolicyBinding") < kinds.index("ClusterRole") < kinds.index("Deployment")


def test_a_dry_run_never_prints_the_issuers_key(tmp_path: Path) -> None:
    made = mesh()
    (tmp_path / "a.crt").write_text(made.issuer.pem)
    (tmp_path / "a.key").write_text(made.issuer.key_pem)
    files = ["--issuer-certificate", str(tmp_path / "a.crt"), "--issuer-key", str(tmp_path / "a.key")]
    typed = Admin(tmp_path / "no-kubeconfig").type("install", *files, "--dry-run")
    assert typed.code == 0, typed.err
    assert "Secret" not in [one["kind"] for one in yaml.safe_load_all(typed.out)]
    encoded = base64.b64encode(made.issuer.key_pem.encode()).decode()
    for secret in (encoded, made.issuer.key_pem.splitlines()[1]):
        assert secret not in typed.out + typed.err
    assert typed.err == (
        "not printed: Secret exclave-issuer, which holds the issuer's key; create it when the namespace exists: "
        "kubectl create secret tls exclave-issuer -n exclave --cert FILE --key FILE\n"
    )


CHOICES = {
    "no issuer": ([], "exclave: no issuer for the machines' certificates was named\n"),
    "two issuers": (
        ["--use-linkerd-issuer", "--issuer-from", "Issuer/x"], "exclave: several issuers were named\n",
    ),
    "an issuer of another shape": (
        ["--issuer-from", "anchor"],
        "exclave: --issuer-from: Issuer/NAME or ClusterIssuer/NAME was expected, found 'anchor'\n",
    ),
    "a certificate without its key": (
        ["--issuer-certificate", "/dev/null"], "exclave: --issuer-key is missing\n",
    ),
    "a file that is not there": (
        ["--issuer-certificate", "/nowhere", "--issuer-key", "/nowhere"],
        "exclave: --issuer-certificate /nowhere: No such file or directory\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), CHOICES.values(), ids=CHOICES)
def test_an_invalid_choice_is_refused_without_the_cluster(options: list[str], message: str, tmp_path: Path) -> None:
    typed = Admin(tmp_path / "no-kubeconfig").type("install", *options)
    assert (typed.code, typed.out) == (2, "")
    assert typed.err.startswith(message)
    assert "to do: " in typed.err


@pytest.mark.parametrize(
    ("choice", "where"),
    [
        (Installation(), {None, "linkerd", "kube-system"}),
        (Installation("machines", "mesh", issuer="linkerd"), {None, "mesh", "kube-system"}),
    ],
)
def test_the_dry_run_has_only_roles_of_existing_namespaces(choice: Installation, where: set[str | None]) -> None:
    tried = [one for one in later_objects(choice) if can_dry_run(one, choice)]
    assert {one.resource.kind for one in tried} == {"ClusterRole", "Role"}
    assert {one.namespace for one in tried} == where
