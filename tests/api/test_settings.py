"""Settings as text and back, and every mistake with its field."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.api.fields import FieldError
from exclave.api.settings import (
    PARAMETER_NAME,
    PARAMETER_VALUE,
    ControlPlane,
    LinkerdSettings,
    Settings,
    Workers,
    digest,
    parse_settings,
    render_settings,
)
from support.mesh import CA, make_settings

from .groups import groups, networks, seconds, words

addresses = st.lists(st.sampled_from(("10.42.0.2", "fd00:42::2")), max_size=2).map(tuple)
counts = st.integers(1, 1024)
settings = st.builds(
    Settings,
    words,
    words,
    st.builds(
        LinkerdSettings,
        words,
        words,
        words,
        st.lists(networks, max_size=2).map(tuple),
        words,
        words,
        words,
        st.builds(Workers, counts, st.none() | counts, st.none() | st.sampled_from((0.25, 1.0))),
        st.dictionaries(st.from_regex(PARAMETER_NAME, fullmatch=True), st.from_regex(PARAMETER_VALUE, fullmatch=True)),
        words,
        words,
    ),
    st.sampled_from((CA, CA * 2)),
    words,
    st.builds(ControlPlane, addresses, addresses, addresses),
    seconds,
    groups,
)


@given(settings)
def test_published_settings_are_read_back(published: Settings) -> None:
    assert parse_settings(render_settings(published)) == published


@given(settings, settings)
def test_the_digest_names_the_content(one: Settings, other: Settings) -> None:
    assert (digest(render_settings(one)) == digest(render_settings(other))) == (one == other)


def test_keys_of_a_newer_controller_are_ignored() -> None:
    tree = json.loads(render_settings(make_settings()))
    tree["later"] = tree["linkerd"]["later"] = tree["group"]["later"] = {"x": 1}
    assert parse_settings(json.dumps(tree)) == make_settings()


def test_without_the_keys_of_a_newer_controller_the_charts_defaults_hold() -> None:
    tree = json.loads(render_settings(make_settings()))
    for key in ("workers", "parameters", "proxyImage", "proxyDigest"):
        del tree["linkerd"][key]
    found = parse_settings(json.dumps(tree)).linkerd
    assert (found.workers, found.parameters, found.proxy_reference) == (Workers(1), {}, "")


@pytest.mark.parametrize(
    ("image", "tag", "digest", "whole"),
    [
        ("cr.l5d.io/linkerd/proxy", "v1", "sha256:0a", "cr.l5d.io/linkerd/proxy:v1@sha256:0a"),
        ("cr.l5d.io/linkerd/proxy", "v1", "", "cr.l5d.io/linkerd/proxy:v1"),
        ("cr.l5d.io/linkerd/proxy", "", "sha256:0a", ""),
        ("", "v1", "", ""),
    ],
)
def test_the_image_of_the_proxy_is_named_as_tools_name_it(image: str, tag: str, digest: str, whole: str) -> None:
    linkerd = replace(make_settings().linkerd, proxy_image=image, proxy_version=tag, proxy_digest=digest)
    assert linkerd.proxy_reference == whole


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("workers", {"minimum": 0}, "linkerd.workers.minimum: 1 to 1024, found 0"),
        ("workers", {"minimum": 1, "ratio": 2}, "linkerd.workers.ratio: a number from 0 to 1 was expected, found 2"),
        ("parameters", {"LOG": "debug"}, "linkerd.parameters: 'LOG': a value of HTTP/2 was expected"),
        (
            "parameters",
            {"INBOUND_SERVER_HTTP2_X": "a b"},
            "linkerd.parameters: 'INBOUND_SERVER_HTTP2_X': a value of HTTP/2 was expected",
        ),
    ],
)
def test_another_variable_of_the_proxy_is_refused(key: str, value: object, text: str) -> None:
    tree = json.loads(render_settings(make_settings()))
    tree["linkerd"][key] = value
    with pytest.raises(FieldError) as refused:
        parse_settings(json.dumps(tree))
    assert str(refused.value) == text


def test_names_come_from_the_settings_alone() -> None:
    found = make_settings()
    assert found.identity.dns_name == "web.shop.serviceaccount.identity.linkerd.cluster.local"
    assert found.identity.spiffe_id == "spiffe://cluster.local/ns/shop/sa/web"
    assert found.server_name == "web.shop.svc.cluster.local"


MISTAKEN = {
    "no JSON": ("{", "settings are not JSON: "),
    "a list": ("[]", "settings: a JSON object was expected"),
    "another version": ('{"version": 2}', "settings version 2: this agent reads version 1"),
    "no version": ("{}", "settings version None: this agent reads version 1"),
    "no mesh": ('{"version": 1}', "linkerd: dict was expected, found NoneType"),
}


@pytest.mark.parametrize(("text", "words"), MISTAKEN.values(), ids=MISTAKEN)
def test_a_mistake_in_settings_is_refused_with_the_name_of_the_field(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_settings(text)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("key", ["namespace", "name", "linkerd", "anchors", "issuer", "controlPlane", "group"])
def test_every_part_is_needed(key: str) -> None:
    tree = json.loads(render_settings(make_settings()))
    del tree[key]
    with pytest.raises(ValueError, match=f"^{key}: "):
        parse_settings(json.dumps(tree))


WHOLE = json.loads(render_settings(make_settings(labels={"app": "web"}, inbound_policy="deny", proxy_cores=2)))


def places(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field of settings, as the keys that lead to it."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [*([before] if before else []), *(place for key, one in inner for place in places(one, (*before, key)))]


def written(place: tuple[Any, ...], value: Any) -> str:
    """Settings with another value at a place."""
    tree = copy.deepcopy(WHOLE)
    inner = tree
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(tree)


FIELDS = [place for place in places(WHOLE) if place != ("version",)]


def value_at(place: tuple[Any, ...]) -> Any:
    """The value of a field of settings."""
    found = WHOLE
    for key in place:
        found = found[key]
    return found


MAY_BE_NULL = {
    ("group", *place)
    for place in (
        ("serviceAccount",), ("labels",), ("ports",), ("ports", 0, "name"), ("ports", 0, "opaque"),
        ("certificateLifetime",), ("capture",), ("inboundPolicy",), ("probes",), ("probes", 0, "kind"),
        ("probes", 0, "every"), ("probes", 0, "timeout"), ("probes", 0, "failures"), ("failure",), ("failure", "after"),
        ("failure", "outbound"), ("failure", "inbound"), ("forgetAfter",),
        ("proxyCores",),
    )
}  # fmt: skip
"""Fields of a group's spec that have a default: null means what their absence does, as in Kubernetes."""


def kind_of(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


@pytest.mark.parametrize("place", FIELDS, ids=lambda place: ".".join(map(str, place)))
def test_null_or_another_type_is_refused_by_the_name_of_the_field(place: tuple[Any, ...]) -> None:
    found = WHOLE
    for key in place:
        found = found[key]
    others = (None, True, 7, 7.5, "x", [], ["x"], {}, {"x": 7})
    for value in (one for one in others if kind_of(one) != kind_of(found)):
        if value is None and place in MAY_BE_NULL:
            assert parse_settings(written(place, value))
            continue
        with pytest.raises(FieldError) as caught:
            parse_settings(written(place, value))
        named = [key for key in place if isinstance(key, str)]
        if place[:2] == ("group", "labels"):
            named = ["group", "labels"]
        stated = str(caught.value).partition(": ")[0]
        assert stated in (".".join(named), f"{named[0]}.{named[-1]}"), (value, str(caught.value))


OUT_OF_RANGE: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "heartbeat": (("heartbeat",), (0, -5, 0.5, 1e300, 10**400, float("nan"), float("inf"), -float("inf"))),
    "namespace": (("namespace",), ("", "\ud800")),
    "anchors": (
        ("anchors",),
        ("", "ca.crt", CA.replace("CERTIFICATE", "PUBLIC KEY"), CA.replace("MIIB", "MI!B"), CA.replace("MIIB", "MII")),
    ),
    "linkerd.trustDomain": (("linkerd", "trustDomain"), ("",)),
    "linkerd.proxyVersion": (("linkerd", "proxyVersion"), ("\udfff",)),
    "linkerd.clusterNetworks": (("linkerd", "clusterNetworks"), (["x"], ["10.0.0.0/33"], [""], [7], [None])),
    "controlPlane.dns": (("controlPlane", "dns"), (["kube-dns"], ["10.0.0.0/8"], [""], [7], [None])),
    "group.networks": (("group", "networks"), (["10.0.0.1/8"], [""], [7])),
    "group.port": (("group", "ports", 0, "port"), (0, -1, 65536, 10**400)),
    "group.certificateLifetime": (
        ("group", "certificateLifetime"),
        ("0s", "9.9s", "9999999h", "9" * 400 + "h"),
    ),
    "group.forgetAfter": (("group", "forgetAfter"), ("", "9999999h")),
    "group.every": (("group", "probes", 0, "every"), ("soon", "")),
    "group.timeout": (("group", "probes", 0, "timeout"), ("soon",)),
    "group.failures": (("group", "probes", 0, "failures"), (0, -1, 10**400)),
    "group.after": (("group", "failure", "after"), ("99999999h", "soon")),
    "group.capture": (("group", "capture"), ("", "most")),
}


TEXTS = [place for place in FIELDS if isinstance(value_at(place), str)]
LISTS = [place for place in FIELDS if isinstance(value_at(place), (list, dict))]


@pytest.mark.parametrize("place", TEXTS, ids=lambda place: ".".join(map(str, place)))
@pytest.mark.parametrize("text", ["\0", "x\0y", "\x1b[2J", "x" * 1_000_000], ids=["NUL", "a NUL inside", "ESC", "1 MB"])
def test_a_text_with_control_characters_or_of_a_megabyte_is_refused(place: tuple[Any, ...], text: str) -> None:
    with pytest.raises(FieldError):
        parse_settings(written(place, text))


@pytest.mark.parametrize("place", LISTS, ids=lambda place: ".".join(map(str, place)))
def test_ten_thousand_entries_are_refused(place: tuple[Any, ...]) -> None:
    found = value_at(place)
    if isinstance(found, dict):
        if place != ("group", "labels"):
            return  # unknown keys of settings are ignored, since a newer controller may write them
        many: Any = {f"l{number}": "x" for number in range(10_000)}
    else:
        many = [found[0] if found else "10.0.0.1"] * 10_000
    with pytest.raises(FieldError, match="entries"):
        parse_settings(written(place, many))


@pytest.mark.parametrize(
    ("name", "place", "values"), [(name, *row) for name, row in OUT_OF_RANGE.items()], ids=OUT_OF_RANGE
)
def test_a_value_out_of_its_range_is_refused_by_the_name_of_the_field(
    name: str, place: tuple[Any, ...], values: tuple[Any, ...]
) -> None:
    for value in values:
        with pytest.raises(FieldError) as caught:
            parse_settings(written(place, value))
        assert str(caught.value).startswith(f"{name}: "), value


@given(st.sampled_from(FIELDS), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_any_value_of_a_field_is_read_or_refused_with_a_field_error(place: tuple[Any, ...], value: Any) -> None:
    try:
        found = parse_settings(written(place, value))
    except FieldError as problem:
        assert len(str(problem)) < 400
    else:
        assert parse_settings(render_settings(found)) == found


def test_settings_that_are_too_deep_are_refused() -> None:
    with pytest.raises(FieldError, match="settings are not JSON: "):
        parse_settings("[" * 100_000)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(FieldError):
        parse_settings(text)
