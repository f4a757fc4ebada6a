"""Settings as text and back, a group's spec with its defaults, and every mistake with its place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.api.settings import (
    ControlPlane,
    FailurePolicy,
    GroupSpec,
    LinkerdSettings,
    Port,
    Probe,
    Settings,
    digest,
    parse_group,
    parse_settings,
    render_group,
    render_settings,
)
from support.member import make_settings

words = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
labels = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
seconds = st.integers(10, 10**6).map(float)
numbers = st.integers(1, 65535)
networks = st.sampled_from(("10.77.0.0/24", "10.0.0.0/8", "fd00:77::/64"))

groups = st.builds(
    GroupSpec,
    service_account=words,
    networks=st.lists(networks, min_size=1, max_size=3).map(tuple),
    labels=st.dictionaries(labels, labels, max_size=3),
    ports=st.lists(st.builds(Port, words, numbers, st.booleans()), max_size=3).map(tuple),
    certificate_lifetime=seconds,
    capture=st.sampled_from(("cluster", "all", "none")),
    inbound_policy=st.sampled_from((None, "deny", "all-authenticated")),
    probes=st.lists(
        st.builds(Probe, numbers, every=seconds, timeout=seconds, failures=st.integers(1, 9)), max_size=3
    ).map(tuple),
    failure=st.builds(FailurePolicy, seconds, st.sampled_from(("open", "closed")), st.sampled_from(("open", "closed"))),
    forget_after=seconds,
)
addresses = st.lists(st.sampled_from(("10.42.0.2", "fd00:42::2")), max_size=2).map(tuple)
settings = st.builds(
    Settings,
    words,
    words,
    st.builds(LinkerdSettings, words, words, words, st.lists(networks, max_size=2).map(tuple), words, words, words),
    words,
    words,
    st.builds(ControlPlane, addresses, addresses, addresses),
    seconds,
    groups,
)


@given(settings)
def test_what_is_published_is_read(published: Settings) -> None:
    assert parse_settings(render_settings(published)) == published


@given(settings, settings)
def test_the_digest_names_the_content(one: Settings, other: Settings) -> None:
    assert (digest(render_settings(one)) == digest(render_settings(other))) == (one == other)


@given(groups)
def test_a_group_written_out_is_read_back(group: GroupSpec) -> None:
    assert parse_group("any", render_group(group)) == group


def test_a_group_says_little_and_the_rest_is_default() -> None:
    assert parse_group(
        "web", {"networks": ["10.77.0.0/24"], "ports": [{"port": 8080}], "probes": [{"port": 8080}]}
    ) == (
        GroupSpec(
            service_account="web",
            networks=("10.77.0.0/24",),
            ports=(Port("8080", 8080, opaque=False),),
            certificate_lifetime=86400,
            capture="cluster",
            inbound_policy=None,
            probes=(Probe(8080, "tcp", every=5, timeout=2, failures=3),),
            failure=FailurePolicy(after=30, outbound="open", inbound="closed"),
            forget_after=30 * 86400,
        )
    )


def test_what_a_newer_controller_adds_is_passed_over() -> None:
    tree = json.loads(render_settings(make_settings()))
    tree["later"] = tree["linkerd"]["later"] = tree["group"]["later"] = {"x": 1}
    assert parse_settings(json.dumps(tree)) == make_settings()


def test_names_come_from_the_settings_alone() -> None:
    found = make_settings()
    assert found.identity.dns_name == "web.shop.serviceaccount.identity.linkerd.cluster.local"
    assert found.identity.spiffe_id == "spiffe://cluster.local/ns/shop/sa/web"
    assert found.server_name == "web.shop.svc.cluster.local"


LEAST = {"networks": ["10.77.0.0/24"]}
MISTAKEN_GROUPS: dict[str, tuple[dict[str, Any], str]] = {
    "no networks": ({"networks": None}, "networks: list was expected, found NoneType"),
    "a network that is none": (
        {"networks": ["10.77.0.1/24"]},
        "networks: 10.77.0.1/24 has host bits set",
    ),
    "a network that is a number": (
        {"networks": [10]},
        "networks: a network such as 10.0.0.0/8 was expected, found 10",
    ),
    "ports that are no list": ({"ports": {"port": 1}}, "ports: list was expected, found dict"),
    "a port that is a number": ({"ports": [8080]}, "ports: a mapping was expected, found 8080"),
    "a port without a number": ({"ports": [{"name": "http"}]}, "port: int was expected, found NoneType"),
    "a port out of range": ({"ports": [{"port": 70000}]}, "port: 1 to 65535, found 70000"),
    "a port that is true": ({"ports": [{"port": True}]}, "port: int was expected, found bool"),
    "a probe of another kind": ({"probes": [{"kind": "exec", "port": 1}]}, "kind: tcp was expected, found 'exec'"),
    "a probe that is no mapping": ({"probes": ["tcp"]}, "probes: a mapping was expected, found 'tcp'"),
    "a duration without a unit": (
        {"certificateLifetime": "24"},
        "certificateLifetime: '24' is not a duration such as 10s, 5m or 24h",
    ),
    "certificates that end at once": ({"certificateLifetime": "5s"}, "certificateLifetime: at least 10s, found 5s"),
    "capturing something else": (
        {"capture": "most"},
        "capture: cluster or all or none was expected, found 'most'",
    ),
    "failing half way": (
        {"failure": {"inbound": "ajar"}},
        "inbound: closed or open was expected, found 'ajar'",
    ),
    "an account with dots": ({"serviceAccount": "web.vm"}, "serviceAccount: a name without dots, found 'web.vm'"),
    "a label that Kubernetes would not take": (
        {"labels": {"app": "web shop"}},
        "labels: a label as Kubernetes takes it was expected, found 'app': 'web shop'",
    ),
    "labels that are no mapping": ({"labels": ["app"]}, "labels: dict was expected, found list"),
}


@pytest.mark.parametrize(("mistake", "words"), MISTAKEN_GROUPS.values(), ids=MISTAKEN_GROUPS)
def test_a_mistaken_group_is_refused_with_its_place(mistake: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_group("web", LEAST | mistake)
    assert str(caught.value) == words


MISTAKEN = {
    "no JSON": ("{", "settings are not JSON: "),
    "a list": ("[]", "settings: a JSON object was expected"),
    "another version": ('{"version": 2}', "settings version 2: this agent reads version 1"),
    "no version": ("{}", "settings version None: this agent reads version 1"),
    "no mesh": ('{"version": 1}', "linkerd: dict was expected, found NoneType"),
}


@pytest.mark.parametrize(("text", "words"), MISTAKEN.values(), ids=MISTAKEN)
def test_mistaken_settings_are_refused_with_their_place(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_settings(text)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("key", ["namespace", "name", "linkerd", "anchors", "issuer", "controlPlane", "group"])
def test_every_part_is_needed(key: str) -> None:
    tree = json.loads(render_settings(make_settings()))
    del tree[key]
    with pytest.raises(ValueError, match=f"^{key}: "):
        parse_settings(json.dumps(tree))


keys = st.sampled_from(("networks", "ports", "port", "probes", "failure", "kind", "labels", "every", "capture"))
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
    max_leaves=12,
)


@given(st.dictionaries(keys, trees))
def test_no_shape_of_a_group_raises_anything_else(tree: dict[str, Any]) -> None:
    try:
        assert isinstance(parse_group("web", LEAST | tree), GroupSpec)
    except ValueError as problem:
        assert str(problem)
