"""Linkerd's own configuration, as its chart writes it."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from exclave.api.linkerd.config import NETWORKS, config_fault, read_linkerd
from exclave.api.settings import LinkerdSettings, Workers

VALUES: dict[str, Any] = {
    "clusterDomain": "cluster.local",
    "identityTrustDomain": "mesh.example.org",
    "clusterNetworks": "10.0.0.0/8,100.64.0.0/10, fd00::/8",
    "linkerdVersion": "edge-26.8.1",
    "proxy": {
        "image": {"name": "cr.l5d.io/linkerd/proxy", "version": "edge-26.8.2"},
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
    proxy_image="cr.l5d.io/linkerd/proxy",
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
    assert read_linkerd(config(VALUES | changes), "linkerd") == (replace(WHOLE, **wanted), {})


LAST_GOOD = replace(
    WHOLE,
    trust_domain="good.example",
    cluster_domain="good.local",
    cluster_networks=("192.0.2.0/24",),
    proxy_version="edge-1.2.3",
    inbound_policy="audit",
    opaque_ports="1",
    proxy_image="registry.example.com/proxy",
)


def proxy(**changes: Any) -> dict[str, Any]:
    return VALUES | {"proxy": VALUES["proxy"] | changes}


# What is written by hand or with --set; what is read without a last good value; what is refused.
READ: dict[str, tuple[str | dict[str, Any], dict[str, Any]]] = {
    "one port without quotes": (proxy(opaquePorts=6379), {"opaque_ports": "6379"}),
    "a comma at the end of ports": (proxy(opaquePorts="25, 3306,"), {"opaque_ports": "25,3306"}),
    "ranges of ports, with spaces": (proxy(opaquePorts="25 , 8000 - 8100"), {"opaque_ports": "25,8000-8100"}),
    "ports on several lines": (proxy(opaquePorts="25,\n443\n"), {"opaque_ports": "25,443"}),
    "no ports": (proxy(opaquePorts=None), {"opaque_ports": ""}),
    "a version without quotes": (proxy(image={"version": 2.18}), {"proxy_version": "2.18"}),
    "a version that is a date": (
        yaml.safe_dump(VALUES | {"proxy": None}).replace("edge-26.8.1", "2026-08-01"),
        {"proxy_version": "2026-08-01", "opaque_ports": "", "inbound_policy": "all-unauthenticated"},
    ),
    "an image of one's own": (
        proxy(image={"name": "registry.example.com:5000/proxy", "version": "edge-26.8.2"}),
        {"proxy_image": "registry.example.com:5000/proxy"},
    ),
    "a version that is a word of YAML": (proxy(image={"version": True}), {"proxy_version": "true"}),
    "a comma at the end of networks": (
        VALUES | {"clusterNetworks": ",10.0.0.0/8,"}, {"cluster_networks": ("10.0.0.0/8",)},
    ),
    "networks on several lines": (
        VALUES | {"clusterNetworks": "10.0.0.0/8,\nfd00::/8\n"}, {"cluster_networks": ("10.0.0.0/8", "fd00::/8")},
    ),
    "a network with host bits": (VALUES | {"clusterNetworks": "10.1.2.3/8"}, {"cluster_networks": ("10.1.2.3/8",)}),
    "a trust domain that is a number": (VALUES | {"identityTrustDomain": 7}, {"trust_domain": "7"}),
    "unknown keys": (VALUES | {"clusterNetwork": "x", "opaquePorts": [], "Proxy": 3}, {}),
    "values of a newer chart beside ours": (proxy(opaquePorts="25,3306", nativeSidecar="yes", image={
        "version": "edge-26.8.2", "digest": [1]}), {}),
}  # fmt: skip


@pytest.mark.parametrize(("values", "wanted"), READ.values(), ids=READ)
def test_what_people_write_is_read_as_linkerd_reads_it(values: str | dict[str, Any], wanted: dict[str, Any]) -> None:
    found = {"data": {"values": values}} if isinstance(values, str) else config(values)
    assert read_linkerd(found, "linkerd", LAST_GOOD) == (replace(WHOLE, **wanted), {})


PORTS = "ports and ranges such as 25,8000-8100 were expected, found"
DOMAIN = "a domain such as cluster.local was expected, found"
# The fields that keep their last good value, what they are without one, and the faults.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "a name among ports": (
        proxy(opaquePorts="25,mysql"), {"opaque_ports": "25"}, {"proxy.opaquePorts": f"{PORTS} 'mysql'"},
    ),
    "ports out of range": (
        proxy(opaquePorts="0,65536,9-3"), {"opaque_ports": ""},
        {"proxy.opaquePorts": f"{PORTS} '0', '65536', '9-3'"},
    ),
    "a list of ports, as --set makes it": (
        proxy(opaquePorts=[25, 443]), {"opaque_ports": ""},
        {"proxy.opaquePorts": "a text with commas was expected, found list"},
    ),
    "networks of which one is none": (
        VALUES | {"clusterNetworks": "10.0.0.0/8,all"}, {"cluster_networks": NETWORKS},
        {"clusterNetworks": "networks such as 10.0.0.0/8 were expected, found 'all'"},
    ),
    "a network without a length": (
        VALUES | {"clusterNetworks": "10.0.0.1"}, {"cluster_networks": NETWORKS},
        {"clusterNetworks": "networks such as 10.0.0.0/8 were expected, found '10.0.0.1'"},
    ),
    "a network with a mask, and one that is too long": (
        VALUES | {"clusterNetworks": "10.0.0.0/255.0.0.0,fd00::/129"}, {"cluster_networks": NETWORKS},
        {"clusterNetworks": "networks such as 10.0.0.0/8 were expected, found '10.0.0.0/255.0.0.0', 'fd00::/129'"},
    ),
    "no networks": (
        VALUES | {"clusterNetworks": ""}, {"cluster_networks": NETWORKS},
        {"clusterNetworks": "networks such as 10.0.0.0/8 were expected, found none"},
    ),
    "a list of networks": (
        VALUES | {"clusterNetworks": ["10.0.0.0/8"]}, {"cluster_networks": NETWORKS},
        {"clusterNetworks": "a text with commas was expected, found list"},
    ),
    "IPv6 neither on nor off": (
        VALUES | {"disableIPv6": "yes"}, {"cluster_networks": WHOLE.cluster_networks},
        {"disableIPv6": "true or false was expected, found 'yes'"},
    ),
    "a policy that does not exist": (
        proxy(defaultInboundPolicy="denny"), {"inbound_policy": "deny"},
        {"proxy.defaultInboundPolicy": "one of all-unauthenticated, all-authenticated, cluster-unauthenticated, "
                                       "cluster-authenticated, deny, audit was expected, found 'denny'"},
    ),
    "a version that is a list": (
        proxy(image={"version": ["edge"]}), {"proxy_version": ""},
        {"proxy.image.version": "a text was expected, found list"},
    ),
    "a version with a control character": (
        proxy(image={"version": "edge\x1b[2J"}), {"proxy_version": ""},
        {"proxy.image.version": "a text was expected, found 'edge\\x1b[2J'"},
    ),
    "a proxy of another shape": (
        VALUES | {"proxy": "deny"},
        {"inbound_policy": "deny", "opaque_ports": "", "proxy_version": "edge-26.8.1", "proxy_image": ""},
        {"proxy": "a mapping was expected, found 'deny'"},
    ),
    "an image whose name is a list": (
        proxy(image={"name": ["proxy"], "version": "edge-26.8.2"}), {"proxy_image": ""},
        {"proxy.image.name": "a text was expected, found list"},
    ),
    "an image of another shape": (
        proxy(image=7), {"proxy_version": "", "proxy_image": ""}, {"proxy.image": "a mapping was expected, found 7"},
    ),
    "a few lines of YAML that expand to a list of billions": (
        {"bomb": YAML_BOMB},
        {"inbound_policy": "all-unauthenticated", "proxy_version": "edge-26.8.1", "opaque_ports": ""},
        {"proxy.opaquePorts": "a text with commas was expected, found list"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("values", "alone", "faults"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_value_is_refused_by_its_name_and_all_else_is_read(
    values: dict[str, Any], alone: dict[str, Any], faults: dict[str, str]
) -> None:
    found = config(values)
    if "bomb" in values:
        found = {"data": {"values": yaml.safe_dump(VALUES | {"proxy": None}) + values["bomb"]}}
    assert read_linkerd(found, "linkerd") == (replace(WHOLE, **alone), faults)
    settings, again = read_linkerd(found, "linkerd", LAST_GOOD)
    assert again == faults and settings is not None
    assert any(getattr(settings, name) == getattr(LAST_GOOD, name) for name in alone)
    assert replace(settings, **{name: getattr(WHOLE, name) for name in alone}) == WHOLE


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ({}, "ConfigMap linkerd-config: values: YAML with a mapping was expected"),
        ({"data": None}, "ConfigMap linkerd-config: values: YAML with a mapping was expected"),
        ({"data": {"values": "{"}}, "ConfigMap linkerd-config: values: YAML with a mapping was expected"),
        ({"data": {"values": "[" * 5000}}, "ConfigMap linkerd-config: values: YAML with a mapping was expected"),
        (config([]), "ConfigMap linkerd-config: values: YAML with a mapping was expected"),
        (
            config(VALUES | {"clusterDomain": None}),
            f"ConfigMap linkerd-config: values.clusterDomain: {DOMAIN} None",
        ),
        (
            config(VALUES | {"identityTrustDomain": ["mesh"]}),
            "ConfigMap linkerd-config: values.identityTrustDomain: a text was expected, found list",
        ),
        (
            config(VALUES | {"clusterDomain": "cluster.local."}),
            f"ConfigMap linkerd-config: values.clusterDomain: {DOMAIN} 'cluster.local.'",
        ),
    ],
    ids=lambda value: value.rpartition(": ")[2] if isinstance(value, str) else "",
)
def test_without_its_domains_a_mesh_is_unknown_unless_it_was_known(found: dict[str, Any], fault: str) -> None:
    settings, faults = read_linkerd(found, "linkerd")
    assert (settings, config_fault(faults)) == (None, fault)
    settings, faults = read_linkerd(found, "linkerd", LAST_GOOD)
    assert settings is not None and config_fault(faults) == fault
    assert "good." in settings.cluster_domain + settings.trust_domain


def _read(values: dict[str, Any]) -> LinkerdSettings:
    found, _ = read_linkerd(config(values), "linkerd")
    assert found is not None
    return found


KEEP_ALIVE = {"server": {"http2": {"keepAliveInterval": "20s", "keepAliveTimeout": "5s"}}}


@pytest.mark.parametrize(
    ("proxy", "workers"),
    [
        pytest.param({}, Workers(), id="nothing is set"),
        pytest.param({"cores": 4}, Workers(4), id="a fixed number"),
        pytest.param({"cores": "4", "runtime": {"workers": {"minimum": 2}}}, Workers(4), id="which is stronger"),
        pytest.param(
            {"cores": None, "runtime": {"workers": {"minimum": 2, "maximum": 8, "maximumCPURatio": 0.25}}},
            Workers(2, 8, 0.25),
            id="a range",
        ),
        pytest.param(
            {"runtime": {"workers": {"minimum": 0, "maximum": -1, "maximumCPURatio": 1.5}}},
            Workers(),
            id="values that the proxy would ignore",
        ),
        pytest.param(
            {"cores": [4], "runtime": {"workers": {"minimum": True, "maximum": ".inf", "maximumCPURatio": "x"}}},
            Workers(),
            id="values of other kinds",
        ),
        pytest.param({"runtime": 7}, Workers(), id="another shape"),
    ],
)
def test_the_threads_of_a_proxy_are_those_that_the_chart_sets(proxy: dict[str, Any], workers: Workers) -> None:
    assert _read(VALUES | {"proxy": proxy}).workers == workers


@pytest.mark.parametrize(
    ("proxy", "parameters"),
    [
        pytest.param({}, {}, id="an older chart has none"),
        pytest.param(
            {"inbound": KEEP_ALIVE, "outbound": KEEP_ALIVE},
            {
                "INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL": "20s",
                "INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT": "5s",
                "OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL": "20s",
                "OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT": "5s",
            },
            id="as the chart names them",
        ),
        pytest.param(
            {"inbound": {"server": {"http2": {"maxConcurrentStreams": 100}}}},
            {"INBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS": "100"},
            id="another one of HTTP/2, a number",
        ),
        pytest.param(
            {"inbound": {"ports": {"disable": {"protocolDetection": "1-65535"}}, "default": {"policy": {"": "x"}}}},
            {},
            id="what would replace a variable of ours",
        ),
        pytest.param(
            {
                "inbound": {"server": {"http2": {"a": "x y", "b": None, "c": "x\ny", "d": ["1"]}}, "x": 3},
                "outbound": [],
            },
            {},
            id="other shapes",
        ),
    ],
)
def test_parameters_of_http2_are_those_of_the_chart(proxy: dict[str, Any], parameters: dict[str, str]) -> None:
    assert _read(VALUES | {"proxy": proxy}).parameters == parameters
