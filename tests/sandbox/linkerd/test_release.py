"""What is read from the manifests of a Linkerd release."""

from pathlib import Path

import pytest

from exclave.api.requests import Object
from exclave.errors import ExclaveError, Fault
from exclave_sandbox.linkerd.release import PROGRAMS, container, environment, find_linkerd, installable

POD: Object = {
    "metadata": {"name": "orders-1", "namespace": "shop"},
    "spec": {"serviceAccountName": "orders"},
    "status": {"podIPs": [{"ip": "10.42.0.10"}, {"ip": "fd00::10"}]},
}


def field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


CONTAINERS: Object = {
    "kind": "Deployment",
    "metadata": {"name": "linkerd-destination"},
    "spec": {
        "template": {
            "spec": {
                "containers": [{"name": "destination", "args": ["destination", "-addr=:8086"]}],
                "initContainers": [{"name": "linkerd-proxy", "env": [{"name": "A", "value": "1"}]}],
            }
        }
    },
}


def test_a_folder_with_every_program_is_a_release(tmp_path: Path) -> None:
    for name in PROGRAMS:
        (tmp_path / name).touch()
    found = find_linkerd(tmp_path)
    assert (found.cli, found.proxy) == (str(tmp_path / "linkerd"), tmp_path / "linkerd2-proxy")
    assert Path(found.controller).name == "linkerd-controller"
    assert Path(found.policy_controller).name == "linkerd-policy-controller"


def test_missing_programs_are_named(tmp_path: Path) -> None:
    (tmp_path / "linkerd").touch()
    with pytest.raises(ExclaveError) as caught:
        find_linkerd(tmp_path)
    assert caught.value.fault is Fault.USAGE
    assert str(caught.value) == (
        f"{tmp_path} does not have all programs of a Linkerd release: "
        "linkerd-controller, linkerd-policy-controller, linkerd2-proxy missing"
    )


def test_webhooks_are_left_out() -> None:
    kinds = ["Service", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "Secret"]
    assert [each["kind"] for each in installable({"kind": kind} for kind in kinds)] == ["Service", "Secret"]


@pytest.mark.parametrize("name", ["destination", "linkerd-proxy"])
def test_a_container_is_found_among_all_of_its_deployment(name: str) -> None:
    assert container([{"kind": "Service"}, CONTAINERS], "linkerd-destination", name)["name"] == name


def test_a_container_that_the_release_does_not_have_is_an_error() -> None:
    with pytest.raises(ExclaveError, match="this release of Linkerd has no container policy in linkerd-destination"):
        container([CONTAINERS], "linkerd-destination", "policy")


def test_the_environment_has_the_pods_fields_and_references_to_earlier_values() -> None:
    found = {
        "env": [
            field("_pod_ns", "metadata.namespace"),
            field("_pod_sa", "spec.serviceAccountName"),
            field("_pod_nodeName", "spec.nodeName"),
            field("IPS", "status.podIPs"),
            {"name": "NAME", "value": "$(_pod_sa).$(_pod_ns).$(later)"},
            {"name": "ANCHORS", "valueFrom": {"configMapKeyRef": {"name": "roots", "key": "ca-bundle.crt"}}},
            {"name": "EMPTY", "value": ""},
        ]
    }
    assert environment(found, POD, {"IPS": "10.42.0.11", "MORE": "1"}) == {
        "_pod_ns": "shop",
        "_pod_sa": "orders",
        "_pod_nodeName": "",
        "IPS": "10.42.0.11",
        "NAME": "orders.shop.$(later)",
        "EMPTY": "",
        "MORE": "1",
    }


def test_every_address_of_a_pod_is_in_its_environment() -> None:
    assert environment({"env": [field("IPS", "status.podIPs")]}, POD, {}) == {"IPS": "10.42.0.10,fd00::10"}


def test_a_container_without_an_environment_gets_what_is_added() -> None:
    assert environment({"name": "policy"}, POD, {"HOSTNAME": "x"}) == {"HOSTNAME": "x"}
