"""Linkerd's own objects, read as its chart writes them, and the settings made of them."""

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from exclave.api.issuer import read_anchors
from exclave.api.requests import Object
from exclave.api.settings import ControlPlane, LinkerdSettings, digest, parse_settings
from exclave.controller.mesh.publish import (
    is_worth_publishing,
    last_good,
    read_control_plane,
    read_linkerd,
    settings_object,
    settings_of,
)
from exclave.controller.policy.register import owner_of
from support.mesh import mesh

from ..snapshots import GROUP, MESH

VALUES: dict[str, Any] = {
    "clusterDomain": "cluster.local",
    "identityTrustDomain": "mesh.example.org",
    "clusterNetworks": "10.0.0.0/8,100.64.0.0/10, fd00::/8",
    "linkerdVersion": "edge-26.8.1",
    "proxy": {
        "image": {"version": "edge-26.8.2"},
        "opaquePorts": "25,3306",
        "defaultInboundPolicy": "deny",
    },
}
WHOLE = LinkerdSettings(
    namespace="linkerd",
    trust_domain="mesh.example.org",
    cluster_domain="cluster.local",
    cluster_networks=("10.0.0.0/8", "100.64.0.0/10", "fd00::/8"),
    proxy_version="edge-26.8.2",
    inbound_policy="deny",
    opaque_ports="25,3306",
)


YAML_BOMB = "".join(f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 10)}]\n" for depth in range(1, 10))
YAML_BOMB = f"a0: &a0 [x, x]\n{YAML_BOMB}proxy: {{opaquePorts: *a9}}\n"


def config(values: Any) -> dict[str, Any]:
    return {"data": {"values": yaml.safe_dump(values)}}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        pytest.param({}, {}, id="everything as the chart writes it"),
        pytest.param({"identityTrustDomain": ""}, {"trust_domain": "cluster.local"}, id="the cluster's is trusted"),
        pytest.param(
            {"disableIPv6": True},
            {"cluster_networks": ("10.0.0.0/8", "100.64.0.0/10")},
            id="IPv6 networks are left out where Linkerd does",
        ),
        pytest.param(
            {"proxy": VALUES["proxy"] | {"opaquePorts": 3306, "image": {"version": 2.15}}, "clusterNetworks": "::/0,"},
            {"opaque_ports": "3306", "proxy_version": "2.15", "cluster_networks": ("::/0",)},
            id="a text that YAML reads as a number",
        ),
        pytest.param(
            {"proxy": {"image": {"version": ""}}},
            {"proxy_version": "edge-26.8.1", "inbound_policy": "all-unauthenticated", "opaque_ports": ""},
            id="without values of its own the proxy has Linkerd's version and the chart's defaults",
        ),
        pytest.param(
            {"proxy": None, "linkerdVersion": None},
            {"proxy_version": "", "inbound_policy": "all-unauthenticated", "opaque_ports": ""},
            id="no version is no reason to stop",
        ),
    ],
)
def test_linkerd_config(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert read_linkerd(config(VALUES | changes), "linkerd") == replace(WHOLE, **wanted)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        pytest.param({}, "ConfigMap linkerd-config: key `values` with YAML was expected", id="no data"),
        pytest.param(
            {"data": {"values": "{"}}, "ConfigMap linkerd-config: key `values` with YAML was expected", id="no YAML"
        ),
        pytest.param(config([]), "ConfigMap linkerd-config: key `values` with YAML was expected", id="a list"),
        pytest.param(
            config(VALUES | {"clusterDomain": None}),
            "ConfigMap linkerd-config: values.clusterDomain was expected",
            id="no domain",
        ),
        pytest.param(
            config(VALUES | {"clusterNetworks": ["10.0.0.0/8"]}),
            "ConfigMap linkerd-config: values.clusterNetworks was expected",
            id="networks of another shape",
        ),
        pytest.param(
            config(VALUES | {"clusterNetworks": "10.0.0.0/8,all"}),
            "ConfigMap linkerd-config: values.clusterNetworks: networks such as 10.0.0.0/8 were expected, found 'all'",
            id="networks of which one is none",
        ),
        pytest.param(
            {"data": {"values": yaml.safe_dump(VALUES | {"proxy": None}) + YAML_BOMB}},
            "ConfigMap linkerd-config: opaquePorts: a text was expected, found list",
            id="a few lines of YAML that expand to a list of billions",
        ),
        pytest.param(
            config(VALUES | {"proxy": "deny"}),
            "ConfigMap linkerd-config: values.proxy: dict was expected, found str",
            id="a proxy of another shape",
        ),
        pytest.param(
            config(VALUES | {"identityTrustDomain": 7}),
            "ConfigMap linkerd-config: values.identityTrustDomain was expected",
            id="a trust domain that is a number",
        ),
    ],
)
def test_a_config_that_cannot_be_read_names_what_is_missing(found: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_linkerd(found, "linkerd")
    assert str(refused.value) == text


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
