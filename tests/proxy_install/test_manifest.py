"""Indexes and manifests, as registries and attackers write them."""

import json
from typing import Any

import pytest

from exclave.proxy_install.manifest import (
    INDEXES,
    LARGEST_LAYER,
    MANIFESTS,
    MOST_LAYERS,
    BadImage,
    choose_manifest,
    config_architecture,
    digest_of,
    is_index,
    parse_document,
    read_config,
    read_layers,
)

DIGEST = f"sha256:{'0a' * 32}"


def described(architecture: str, system: str = "linux", **more: Any) -> dict[str, Any]:
    platform = {"os": system, "architecture": architecture}
    return {"mediaType": MANIFESTS[0], "digest": DIGEST, "size": 7, "platform": platform, **more}


def manifest(*layers: Any, **more: Any) -> dict[str, Any]:
    found = [{"mediaType": "x", "digest": DIGEST, "size": one} if isinstance(one, int) else one for one in layers]
    return {"schemaVersion": 2, "config": {"digest": DIGEST, "size": 2}, "layers": found, **more}


def test_a_document_has_its_digest() -> None:
    content = b'{"a": 1}'
    assert parse_document(content, digest_of(content)) == parse_document(content, "") == {"a": 1}
    with pytest.raises(BadImage, match="another content"):
        parse_document(content + b" ", digest_of(content))
    for text in (b"", b"<html>", b"[]", b"[" * 100_000):
        with pytest.raises(BadImage, match="a manifest was expected"):
            parse_document(text, "")


def test_an_index_is_recognised_with_and_without_its_type() -> None:
    assert is_index({"mediaType": INDEXES[0]})
    assert is_index({"mediaType": INDEXES[1]})
    assert is_index({"manifests": []})
    assert not is_index({"mediaType": MANIFESTS[0], "manifests": []})
    assert not is_index({"layers": []})


def test_the_manifest_of_this_architecture_is_chosen() -> None:
    index = {"manifests": [described("arm64"), described("amd64", "windows"), described("amd64", size=8)]}
    assert choose_manifest(index, "amd64").size == 8
    with pytest.raises(BadImage, match=r"not for linux/s390x, only for linux/amd64, linux/arm64, windows/amd64"):
        choose_manifest(index, "s390x")


def test_attestations_are_no_platform() -> None:
    index = {"manifests": [described("unknown", "unknown"), {"digest": DIGEST}]}
    with pytest.raises(BadImage, match="only for nothing known"):
        choose_manifest(index, "amd64")


def test_layers_are_read_in_their_order() -> None:
    assert [one.size for one in read_layers(manifest(1, 2, 3))] == [1, 2, 3]
    assert read_config(manifest(1)).size == 2


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (manifest(), "layers were expected, found 0"),
        (manifest(*[1] * (MOST_LAYERS + 1)), "layers were expected, found 129"),
        (manifest(LARGEST_LAYER + 1), "layer of at most"),
        (manifest(-1), "size"),
        (manifest(True), "size"),
        (manifest({"digest": "sha256:../../etc", "size": 1}), "digest"),
        (manifest({"digest": "md5:0", "size": 1}), "digest"),
        (manifest({"digest": None, "size": 1}), "digest"),
        (manifest("x"), "list of objects"),
        (manifest(1, mediaType="application/vnd.oci.artifact"), "found application/vnd.oci.artifact"),
        (manifest(1, schemaVersion=1), "found 1"),
        ({"schemaVersion": 2, "layers": 3}, "list of objects"),
    ],
)
def test_another_shape_is_refused(found: dict[str, Any], words: str) -> None:
    with pytest.raises(BadImage, match=words):
        read_layers(found)


def test_a_manifest_without_configuration_is_refused() -> None:
    with pytest.raises(BadImage, match="descriptor"):
        read_config({"schemaVersion": 2})


def test_the_configuration_states_the_architecture() -> None:
    content = json.dumps({"architecture": "arm64"}).encode()
    assert config_architecture(content, digest_of(content)) == "arm64"
    assert config_architecture(b'{"architecture": 1}', "") == ""
