"""Linkerd's own objects, read as its chart writes them, and the settings made of them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from exclave.api.issuer import read_anchors
from exclave.api.requests import Object
from exclave.api.settings import ControlPlane, digest, parse_settings
from exclave.controller.mesh.publish import (
    is_worth_publishing,
    last_good,
    read_control_plane,
    settings_object,
    settings_of,
)
from exclave.controller.policy.register import owner_of
from support.mesh import mesh

from ..snapshots import GROUP, MESH


def test_anchors_are_published_unchanged() -> None:
    text = "# ours\n" + mesh().anchor.pem
    assert read_anchors({"data": {"ca-bundle.crt": text}}) == text


def test_a_bundle_without_a_certificate_is_refused() -> None:
    with pytest.raises(ValueError) as refused:
        read_anchors({"data": {}})
    assert str(refused.value) == (
        "ConfigMap linkerd-identity-trust-roots: a certificate in PEM was expected, found none"
    )


def part(service: str, *endpoints: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"kubernetes.io/service-name": service}}, "endpoints": list(endpoints)}


def unexpected(found: Object, problem: Exception) -> None:
    raise AssertionError(f"{found}: {problem!r}")


MALFORMED_SLICES: dict[str, dict[str, Any]] = {
    "endpoints that are a number": {"endpoints": 7},
    "an endpoint that is a text": {"endpoints": ["10.42.0.9"]},
    "conditions that are a list": {"endpoints": [{"addresses": ["10.42.0.9"], "conditions": ["ready"]}]},
    "an address that is a number": {"endpoints": [{"addresses": [7]}]},
    "labels that are a list": {"metadata": {"name": "bad", "labels": ["x"]}},
}


@pytest.mark.parametrize("change", MALFORMED_SLICES.values(), ids=MALFORMED_SLICES)
def test_a_malformed_endpoint_slice_is_reported_and_the_others_count(change: dict[str, Any]) -> None:
    good = [part("linkerd-dst-headless", {"addresses": ["10.42.0.2"]}), part("linkerd-policy", {"addresses": ["::4"]})]
    bad = {**part("linkerd-dst-headless"), **change}
    reported: list[Object] = []
    found = read_control_plane([bad, *good], [bad], lambda one, _: reported.append(one))
    assert found == ControlPlane(("10.42.0.2",), ("::4",), ())
    assert reported == [bad, bad]


def test_the_control_plane_has_the_addresses_of_ready_pods() -> None:
    linkerd = [
        part("linkerd-dst-headless", {"addresses": ["10.42.0.9"], "conditions": {"ready": True}}),
        part(
            "linkerd-dst-headless",
            {"addresses": ["10.42.0.2"]},  # "nil should be interpreted as true", says the API
            {"addresses": ["10.42.0.3"], "conditions": {"ready": False}},
            {"addresses": ["10.42.0.9"]},
        ),
        part("linkerd-policy", {"addresses": ["10.42.0.4"], "conditions": {"ready": None}}),
        part("linkerd-identity-headless", {"addresses": ["10.42.0.5"]}),
        {"metadata": {}, "endpoints": None},
    ]
    dns = [part("kube-dns", {"addresses": ["10.42.0.6", "10.42.0.7"]}), part("metrics", {"addresses": ["10.42.0.8"]})]
    assert read_control_plane(linkerd, dns, unexpected) == ControlPlane(
        ("10.42.0.2", "10.42.0.9"), ("10.42.0.4",), ("10.42.0.6", "10.42.0.7")
    )


def test_without_ready_pods_it_has_the_addresses_of_all_pods() -> None:
    unready = [
        {"addresses": ["10.42.0.2"], "conditions": {"ready": False}},
        {"addresses": ["10.42.0.3"], "conditions": {"ready": False}},
    ]
    linkerd = [part("linkerd-dst-headless", *unready), part("linkerd-policy", unready[0], {"addresses": ["10.42.0.4"]})]
    found = read_control_plane(linkerd, [], unexpected)
    assert found == ControlPlane(("10.42.0.2", "10.42.0.3"), ("10.42.0.4",), ())


def test_a_service_without_pods_keeps_its_last_good_addresses() -> None:
    before = ControlPlane(("10.42.0.2",), ("10.42.0.3",), ("10.42.0.4",))
    assert last_good(ControlPlane(), before) == before
    assert last_good(ControlPlane(policy=("10.42.0.9",)), before) == replace(before, policy=("10.42.0.9",))
    assert last_good(ControlPlane(), None) == ControlPlane()


@pytest.mark.parametrize(
    ("plane", "worth"),
    [
        (ControlPlane(("10.42.0.2",), ("10.42.0.3",)), True),
        (ControlPlane((), ("10.42.0.3",), ("10.42.0.4",)), False),
        (ControlPlane(("10.42.0.2",), (), ("10.42.0.4",)), False),
    ],
    ids=["without the cluster's DNS", "without destination", "without policy"],
)
def test_settings_without_linkerd_are_not_published(plane: ControlPlane, worth: bool) -> None:
    assert is_worth_publishing(plane) is worth


def test_members_read_what_is_published_and_name_it_by_its_digest() -> None:
    text, name = settings_of(GROUP, MESH, 10.0)
    settings = parse_settings(text)
    assert (settings.linkerd, settings.anchors, settings.issuer) == (MESH.linkerd, MESH.anchors, MESH.issuer)
    assert (settings.control_plane, settings.group, settings.group_name) == (MESH.control_plane, GROUP.spec, "web")
    assert settings.heartbeat == 10.0
    assert name == digest(text) == settings_of(GROUP, MESH, 10.0)[1]
    assert settings_of(GROUP, replace(MESH, issuer="cd" * 32), 10.0)[1] != name


def test_the_config_map_of_a_group() -> None:
    assert settings_object(GROUP, json.dumps({})) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "exclave-mesh.web", "namespace": "shop", "ownerReferences": [owner_of(GROUP)]},
        "data": {"settings.json": "{}"},
    }
