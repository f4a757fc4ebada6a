"""What an admin may choose when installing; the installing itself is tried in tests/peers, on real servers."""

from pathlib import Path

import pytest
import yaml

from support.admin import Admin


def test_a_dry_run_prints_all_objects_policies_before_rights_and_asks_nothing(tmp_path: Path) -> None:
    nobody = Admin(tmp_path / "no-kubeconfig")
    typed = nobody.type("install", "--use-linkerd-issuer", "--dry-run")
    assert typed.code == 0, typed.err
    kinds = [one["kind"] for one in yaml.safe_load_all(typed.out)]
    assert kinds[:2] == ["CustomResourceDefinition"] * 2
    assert kinds.index("ValidatingAdmissionPolicyBinding") < kinds.index("ClusterRole") < kinds.index("Deployment")


CHOICES = {
    "no issuer": ([], "exclave: an issuer for machines' certificates was expected\n"),
    "two issuers": (
        ["--use-linkerd-issuer", "--issuer-from", "Issuer/x"], "exclave: one issuer was expected, found several\n",
    ),
    "an issuer of another shape": (
        ["--issuer-from", "anchor"],
        "exclave: --issuer-from: Issuer/NAME or ClusterIssuer/NAME was expected, found 'anchor'\n",
    ),
    "a certificate without its key": (
        ["--issuer-certificate", "/dev/null"], "exclave: --issuer-key was expected, too\n",
    ),
    "a file that is not there": (
        ["--issuer-certificate", "/nowhere", "--issuer-key", "/nowhere"],
        "exclave: --issuer-certificate /nowhere: No such file or directory\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "told"), CHOICES.values(), ids=CHOICES)
def test_a_choice_that_cannot_be_is_told_before_anything_is_asked(
    options: list[str], told: str, tmp_path: Path
) -> None:
    typed = Admin(tmp_path / "no-kubeconfig").type("install", *options)
    assert (typed.code, typed.out) == (2, "")
    assert typed.err.startswith(told)
    assert "to do: " in typed.err
