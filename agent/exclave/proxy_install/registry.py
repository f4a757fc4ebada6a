"""One image in a registry: its manifest for this machine, and its layers.

Source: github.com/opencontainers/distribution-spec, spec.md; the way to a token is in `challenge`.
"""

import base64
from collections.abc import Sequence
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx

from exclave.proxy_install.challenge import parse_challenge, read_token, token_url
from exclave.proxy_install.download import Origin, Report, download_error
from exclave.proxy_install.manifest import (
    INDEXES,
    MANIFESTS,
    MOST_BYTES,
    BadImage,
    Descriptor,
    choose_manifest,
    config_architecture,
    digest_of,
    is_index,
    parse_document,
    read_config,
    read_layers,
)
from exclave.proxy_install.reference import ImageReference, is_local

LARGEST_TOKEN = 64 * 1024  # bytes of a token server's answer


class Registry(Origin):
    """The registry of one image. `password`: `USER:PASSWORD` for it, None without one."""

    def __init__(self, client: httpx.AsyncClient, image: ImageReference, password: str | None) -> None:
        super().__init__(client, f"registry {image.registry}", image.base)
        self._image = image
        self._basic = f"Basic {base64.b64encode(password.encode()).decode()}" if password is not None else None

    async def authorize(self, refusal: httpx.Response) -> bool:
        """Answer the registry's challenge: with a token from its token server, or with the password."""
        challenge = parse_challenge(refusal.headers.get("www-authenticate", ""))
        if challenge is None:
            return False
        if challenge.scheme == "basic":
            self.authorization = self._basic
            return self._basic is not None
        try:
            self.authorization = f"Bearer {await self._request_token(token_url(challenge, self._image.repository))}"
        except ValueError as problem:
            raise download_error(f"{self.title}: {problem}", "name another source") from None
        return True

    async def _request_token(self, url: str) -> str:
        server = Origin(self.client, f"the token server of {self.title}", url)
        # The registry chooses this server, so a password goes there by TLS only.
        if self._basic is not None and (urlsplit(url).scheme == "https" or is_local(urlsplit(url).hostname or "")):
            server.authorization = self._basic
        return read_token(await server.read(url, {}, LARGEST_TOKEN))

    async def resolve(self, architecture: str) -> tuple[str, Sequence[Descriptor]]:
        """The digest of the image, and its layers for an architecture (`amd64`, `arm64`), the lowest first.

        Raises BadImage, HostError.
        """
        content = await self._manifest(self._image.target)
        digest = self._image.digest or digest_of(content)
        document = parse_document(content, digest)
        if is_index(document):
            chosen = choose_manifest(document, architecture)
            document = parse_document(await self._manifest(chosen.digest), chosen.digest)
        layers, config = read_layers(document), read_config(document)
        # A registry may offer one platform's image for another one.
        found = config_architecture(await self._small_blob(config), config.digest)
        if found != architecture:
            raise BadImage(f"the image is for {found[:40] or 'an unknown architecture'}, not for {architecture}")
        return digest, layers

    async def fetch_layer(self, layer: Descriptor, file: BinaryIO, report: Report) -> None:
        """Append to a file what it lacks of a layer. Its digest is not checked. Raises BadImage, HostError."""
        await self.fetch(self._url("blobs", layer.digest), file, layer.size, layer.size, report)

    async def _manifest(self, target: str) -> bytes:
        headers = {"Accept": ", ".join((*INDEXES, *MANIFESTS))}
        return await self.read(
            f"{self._image.base}/v2/{self._image.repository}/manifests/{target}", headers, MOST_BYTES
        )

    async def _small_blob(self, blob: Descriptor) -> bytes:
        return await self.read(self._url("blobs", blob.digest), {}, MOST_BYTES)

    def _url(self, kind: str, target: str) -> str:
        return f"{self._image.base}/v2/{self._image.repository}/{kind}/{target}"
