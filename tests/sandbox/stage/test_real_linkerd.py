"""The parts of the real Linkerd's stage that need no Linkerd. tests/real has the whole."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exclave_sandbox.expect import UnexpectedError
from exclave_sandbox.linkerd.release import LinkerdBinaries
from exclave_sandbox.pki import make_anchor, make_issuer
from exclave_sandbox.stage.namespaces import open_network
from exclave_sandbox.stage.real_linkerd import CONTROLLER_RULES, Pod, install_linkerd, make_request


def test_a_pod_has_the_label_by_which_the_policy_controller_finds_it() -> None:
    manifest = Pod("linkerd", "linkerd-destination-0", "linkerd-destination", "10.42.0.2", None).manifest
    assert manifest["metadata"]["labels"] == {"linkerd.io/control-plane-ns": "linkerd"}
    assert manifest["status"]["podIPs"] == [{"ip": "10.42.0.2"}]


def test_a_request_has_the_name_and_is_signed_by_its_key() -> None:
    private, der = make_request("orders.shop.serviceaccount.identity.linkerd.cluster.local")
    request, key = x509.load_der_x509_csr(der), serialization.load_der_private_key(private, None)
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["orders.shop.serviceaccount.identity.linkerd.cluster.local"]
    assert request.is_signature_valid
    requested, own = request.public_key(), key.public_key()
    assert isinstance(requested, ec.EllipticCurvePublicKey) and isinstance(own, ec.EllipticCurvePublicKey)
    assert requested.public_numbers() == own.public_numbers()


async def test_the_kernel_accepts_the_controllers_rules() -> None:
    async with open_network() as network:
        machine = await network.add("cluster", "10.77.0.1/24")
        await machine.must("nft", CONTROLLER_RULES)
        assert b"redirect to :4143" in await machine.must("nft", "list", "table", "ip", "linkerd")


async def test_a_command_line_that_is_missing_is_named(tmp_path: Path) -> None:
    anchor = make_anchor()
    binaries = LinkerdBinaries(tmp_path / "none")
    with pytest.raises(UnexpectedError, match=r"Linkerd cannot be installed without .*/none/linkerd"):
        await install_linkerd(binaries, tmp_path, ("10.77.0.1", 6443), anchor.pem, anchor, make_issuer(anchor))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "#!/bin/sh\necho 'no such flag' >&2\nexit 1\n",
            r"/linkerd install --ignore-cluster: exit status 1\nno such flag",
        ),
        ("no program", r"Linkerd cannot be installed without .*/linkerd: Exec format error"),
    ],
    ids=["it fails", "it is no program"],
)
async def test_what_the_command_line_reports_is_in_the_error_with_a_remedy(
    tmp_path: Path, text: str, words: str
) -> None:
    anchor = make_anchor()
    program = tmp_path / "linkerd"
    program.write_text(text)
    program.chmod(0o755)
    with pytest.raises(UnexpectedError, match=f"{words}\nto do: "):
        await install_linkerd(LinkerdBinaries(tmp_path), tmp_path, ("10.77.0.1", 6443), "", anchor, make_issuer(anchor))
