"""The parsers of what registries answer, with valid inputs."""

import base64
import json

from exclave.errors import UsageError
from exclave.proxy_install.challenge import parse_challenge, read_password, read_token, token_url
from exclave.proxy_install.download import read_pause
from exclave.proxy_install.manifest import (
    INDEXES,
    MANIFESTS,
    BadImage,
    choose_manifest,
    is_index,
    parse_document,
    read_config,
    read_layers,
)
from exclave.proxy_install.reference import at_mirror, parse_reference
from fuzz.target import Target

DIGEST = f"sha256:{'0a' * 32}"
ENTRY = {"mediaType": MANIFESTS[0], "digest": DIGEST, "size": 7, "platform": {"os": "linux", "architecture": "amd64"}}
INDEX = json.dumps({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [ENTRY]}).encode()
MANIFEST = json.dumps({"schemaVersion": 2, "config": ENTRY, "layers": [ENTRY, ENTRY]}).encode()
PASSWORDS = {"auths": {"cr.example.com": {"auth": base64.b64encode(b"robot:secret").decode()}}}


def read_document(content: bytes) -> None:
    document = parse_document(content, "")
    if is_index(document):
        choose_manifest(document, "amd64")
    else:
        read_config(document)
        read_layers(document)


def read_header(content: bytes) -> None:
    text = content.decode("latin-1")
    read_pause(text)
    challenge = parse_challenge(text)
    if challenge is not None and challenge.scheme == "bearer":
        token_url(challenge, "linkerd/proxy")


def read_name(content: bytes) -> None:
    image = parse_reference(content.decode())
    assert parse_reference(str(image)) == image
    at_mirror(image, "mirror.example.com/l5d")


TARGETS = (
    Target("index", read_document, [INDEX, MANIFEST], (BadImage,), (parse_document, read_layers, read_config)),
    Target(
        "challenge",
        read_header,
        [b'Bearer realm="https://auth.example.com/token",service="registry"', b"Basic", b"7"],
        (ValueError,),
        (parse_challenge, read_pause),
    ),
    Target("token of a registry", read_token, [b'{"token": "a.b.c"}'], (ValueError,), (read_token,)),
    Target(
        "passwords of registries",
        lambda content: read_password(content, "cr.example.com"),
        [json.dumps(PASSWORDS).encode()],
        (ValueError,),
        (read_password,),
    ),
    Target(
        "name of an image",
        read_name,
        [f"cr.l5d.io/linkerd/proxy:edge-26.8.3@{DIGEST}".encode()],
        (UsageError, UnicodeDecodeError),
        (parse_reference,),
    ),
)
