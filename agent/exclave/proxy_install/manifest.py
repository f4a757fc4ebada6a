"""Indexes and manifests of images: which manifest is for this machine, and which layers it has. Pure.

Sources: github.com/opencontainers/image-spec, image-index.md and manifest.md; Docker's "Image Manifest V 2, Schema 2".
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exclave.kit.formats.json_text import parse_json

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gz",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gz",
}
"""Layers that can be read, and their compression as `tarfile` names it."""

MOST_BYTES = 4 * 1024 * 1024  # of an index or a manifest: what the distribution specification asks registries to accept
MOST_LAYERS = 128
LARGEST_LAYER = 1024 * 1024 * 1024  # bytes. Linkerd's largest layer has some 50 MB.

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Names of this machine's architecture: the kernel's, and those of images (Go's GOARCH)."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class BadImage(ValueError):
    """An image that cannot be used. The text states why, for a person."""


@dataclass(frozen=True)
class Descriptor:
    """Something in a registry: its type, `sha256:…`, and its size in bytes."""

    media_type: str
    digest: str
    size: int


def digest_of(content: bytes) -> str:
    """The digest of a content, as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_document(content: bytes, digest: str) -> dict[str, Any]:
    """An index or a manifest with this digest; "" accepts any. Raises BadImage."""
    if digest and digest_of(content) != digest:
        raise BadImage(f"the registry answered with another content than {digest}: its sha256 is {digest_of(content)}")
    try:
        found = parse_json(content)
    except ValueError as problem:
        raise BadImage(f"a manifest was expected: {problem}") from None
    if not isinstance(found, dict):
        raise BadImage("a manifest was expected, found no JSON object")
    return found


def is_index(document: dict[str, Any]) -> bool:
    """True for an index of manifests by platform. The specification allows documents without a type."""
    kind = document.get("mediaType")
    return kind in INDEXES or (kind is None and "manifests" in document)


def choose_manifest(index: dict[str, Any], architecture: str) -> Descriptor:
    """The manifest for Linux on this architecture (`amd64`, `arm64`). Raises BadImage, which lists what there is."""
    offered = []
    for one in _items(index, "manifests"):
        platform = one.get("platform")
        if not isinstance(platform, dict):
            continue
        system, found = platform.get("os"), platform.get("architecture")
        if (system, found) == ("linux", architecture):
            return _descriptor(one)
        if isinstance(system, str) and isinstance(found, str) and "unknown" not in (system, found):
            offered.append(f"{system}/{found}"[:40])
    raise BadImage(
        f"the image is not for linux/{architecture}, only for {', '.join(sorted(set(offered))[:10]) or 'nothing known'}"
    )


def read_layers(manifest: dict[str, Any]) -> Sequence[Descriptor]:
    """The layers, the lowest first. Raises BadImage."""
    if manifest.get("mediaType") not in (None, *MANIFESTS) or manifest.get("schemaVersion") != 2:
        shown = str(manifest.get("mediaType") or manifest.get("schemaVersion"))[:80]
        raise BadImage(f"a manifest of an image was expected, found {shown}")
    layers = [_descriptor(one) for one in _items(manifest, "layers")]
    if not 0 < len(layers) <= MOST_LAYERS:
        raise BadImage(f"1 to {MOST_LAYERS} layers were expected, found {len(layers)}")
    for one in layers:
        if one.size > LARGEST_LAYER:
            raise BadImage(f"a layer of at most {LARGEST_LAYER} bytes was expected, found one of {one.size}")
    return layers


def config_architecture(config: bytes, digest: str) -> str:
    """The architecture that an image's configuration states, "" if none. Raises BadImage."""
    found = parse_document(config, digest).get("architecture")
    return found if isinstance(found, str) else ""


def read_config(manifest: dict[str, Any]) -> Descriptor:
    """The descriptor of the image's configuration. Raises BadImage."""
    return _descriptor(manifest.get("config"))


def _items(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BadImage(f"{key}: a list of objects was expected")
    return found


def _descriptor(found: object) -> Descriptor:
    if not isinstance(found, dict):
        raise BadImage("a descriptor was expected")
    media_type, digest, size = found.get("mediaType"), found.get("digest"), found.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BadImage("digest: sha256: and 64 hexadecimal digits were expected")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadImage("size: a number of bytes was expected")
    return Descriptor(media_type if isinstance(media_type, str) else "", digest, size)
