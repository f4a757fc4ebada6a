"""`identity`, `policy` and `proxy-metrics` through kubectl, against the sandbox's API server."""

from typing import Any

import pytest

from exclave.admin.diagnostics.verbs import identity_lines
from exclave.admin.objects import Manifest
from exclave.api.member import Certificate, MemberView
from exclave.api.requests import EXTERNAL_WORKLOADS, MEMBERS, NAMESPACES, path_of
from exclave.errors import UsageError
from exclave.kit.formats.times import rfc3339
from exclave.kit.formats.x509 import fingerprint, not_after
from peers.conftest import Server
from support.admin import Admin, put
from support.mesh import IDENTITY, mesh
from support.store import member

NAME = "web-k7q2x-1"


@pytest.fixture
def place(server: Server, namespace: str) -> str:
    """A namespace with a member."""
    put(
        server,
        [Manifest(NAMESPACES, None, {"metadata": {"name": namespace}}), Manifest(MEMBERS, namespace, member(NAME))],
    )
    return namespace


def patch_status(server: Server, namespace: str, status: Any) -> None:
    with server.client(server.admin_token) as client:
        path = f"{path_of(MEMBERS, namespace)}/{NAME}/status"
        headers = {"content-type": "application/merge-patch+json"}
        assert client.patch(path, json={"status": status}, headers=headers).status_code == 200


def test_the_names_come_in_the_order_of_the_certificate_with_the_whole_chain() -> None:
    leaf, issuer = mesh().leaf(), mesh().issuer.certificate
    view = MemberView(NAME, certificate=Certificate("ab" * 32, mesh().chain(leaf), "never"))
    found = dict(identity_lines(view))
    assert found["Names"].split("\n") == [IDENTITY.dns_name, IDENTITY.spiffe_id]
    assert found["Serial"] == f"{leaf.certificate.serial_number:x}"
    assert found["Valid"].endswith(f"until {rfc3339(not_after(leaf.certificate))}")
    assert found["Issuer"] == issuer.subject.rfc4514_string()
    assert found["Chain"] == f"{issuer.subject.rfc4514_string()}  sha256 {fingerprint(issuer)}"


@pytest.mark.parametrize("chain", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_chain_that_cannot_be_read_is_an_error(chain: str) -> None:
    with pytest.raises(UsageError, match=f"the certificate in the status of member {NAME} cannot be read: "):
        identity_lines(MemberView(NAME, certificate=Certificate("ab" * 32, chain, "never")))


def test_the_identity_of_a_member_is_that_of_its_last_certificate(admin: Admin, server: Server, place: str) -> None:
    typed = admin.type("identity", NAME, "-n", place)
    assert (typed.code, typed.err.splitlines()) == (
        2,
        [
            f"exclave: no certificate has been signed for member {NAME} yet",
            f"  to do: see why: kubectl exclave member describe {NAME}",
        ],
    )
    leaf = mesh().leaf()
    chain = mesh().chain(leaf)
    ends = rfc3339(not_after(leaf.certificate))
    patch_status(server, place, {"certificate": {"csrSha256": "ab" * 32, "chain": chain, "notAfter": ends}})
    assert admin.type("identity", NAME, "-n", place, "--pem").out == chain
    shown = admin.type("identity", NAME, "-n", place)
    assert (shown.code, shown.out.splitlines()[0].split()) == (0, ["Member:", NAME])
    assert shown.err == "what its proxy serves now is shown on the machine: exclave proxy identity\n"


def test_the_policy_of_a_member_needs_its_workload_and_a_port(admin: Admin, server: Server, place: str) -> None:
    typed = admin.type("policy", NAME, "-n", place)
    assert typed.err.startswith(f"exclave: member {NAME} has no ExternalWorkload, so no policy can select it\n")
    spec = {"meshTLS": {"identity": "spiffe://x", "serverName": "web"}, "workloadIPs": [{"ip": "10.0.0.9"}]}
    annotations = {"config.linkerd.io/default-inbound-policy": "deny"}
    kind = {"apiVersion": EXTERNAL_WORKLOADS.api_version, "kind": EXTERNAL_WORKLOADS.kind}
    workload = {**kind, "metadata": {"name": NAME, "annotations": annotations}, "spec": spec}
    put(server, [Manifest(EXTERNAL_WORKLOADS, place, workload)])
    typed = admin.type("policy", NAME, "-n", place)
    assert typed.err.startswith(f"exclave: no port of member {NAME} is listed now\n")
    typed = admin.type("policy", NAME, "8080", "-n", place)
    assert (typed.code, typed.out.splitlines()) == (
        0,
        [
            "Port:    8080 (not listed)",
            "Server:  none selects it",
            "Default: deny (annotation of the ExternalWorkload)",
        ],
    )
    assert typed.err == "by the objects in the cluster; Linkerd's policy controller was not asked\n"


def test_the_metrics_of_a_member_are_an_error_that_names_the_command(admin: Admin, place: str) -> None:
    typed = admin.type("proxy-metrics", NAME, "-n", place)
    first, second = typed.err.splitlines()
    assert (typed.code, typed.out) == (2, "")
    assert first.startswith(f"exclave: the metrics of member {NAME} cannot be read from here: ")
    assert second.startswith("  to do: type this on the machine") and second.endswith(": exclave proxy metrics")


@pytest.mark.parametrize("command", ["identity", "policy", "proxy-metrics"])
def test_a_member_that_does_not_exist_is_an_error(admin: Admin, place: str, command: str) -> None:
    typed = admin.type(command, "web-k7q2x-9", "-n", place)
    assert typed.code == 2
    assert "web-k7q2x-9" in typed.err.splitlines()[0]


def test_check_names_a_member_whose_proxy_does_not_serve_only_with_proxy(
    admin: Admin, server: Server, place: str
) -> None:
    admitted = {
        "type": "Admitted",
        "status": "True",
        "reason": "Admitted",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    patch_status(server, place, {"conditions": [admitted]})
    linkerd = ("--linkerd-namespace", "linkerd")  # the sandbox has no Deployment that names it
    assert f"{place}/{NAME}" not in admin.type("check", *linkerd).out
    for words in (("--proxy",), ("--proxy=true",)):
        out = admin.type("check", *words, *linkerd, "-n", place).out
        assert "× every member's proxy serves" in out and f"{place}/{NAME}: " in out
    assert "proxy serves" not in admin.type("check", "--proxy=false", "-n", place).out
