"""Linkerd's own configuration, as its chart writes it."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from exclave.api.linkerd_config import read_linkerd
from exclave.api.settings import LinkerdSettings, Workers

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
    assert read_linkerd(config(VALUES | {"proxy": proxy}), "linkerd").workers == workers


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
    assert read_linkerd(config(VALUES | {"proxy": proxy}), "linkerd").parameters == parameters
