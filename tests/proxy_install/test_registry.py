"""An image in a registry: its index, platform and layers; tokens and passwords."""

import base64
import io
import json

import httpx
import pytest

from exclave.errors import HostError
from exclave.proxy_install.manifest import BadImage
from exclave.proxy_install.reference import parse_reference
from exclave.proxy_install.registry import Registry as Opened
from support.registry import Answer, Registry, layer_with, proxy_image, run_registry

PASSWORD = "robot:secret"


@pytest.fixture
def registry():  # type: ignore[no-untyped-def]
    with run_registry() as running:
        yield running


async def resolve(registry: Registry, target: str = ":v1", password: str | None = None) -> tuple[str, int]:
    """The digest and the number of layers."""
    image = parse_reference(f"{registry.host}/linkerd/proxy{target}")
    async with httpx.AsyncClient() as client:
        digest, layers = await Opened(client, image, password).resolve("amd64")
    return digest, len(layers)


async def test_a_tag_leads_to_the_digest_of_the_index(registry: Registry) -> None:
    digest = proxy_image(registry, b"proxy")
    assert await resolve(registry) == (digest, 2)
    assert await resolve(registry, target=f"@{digest}") == (digest, 2)
    assert await resolve(registry, target=f":gone@{digest}") == (digest, 2)


async def test_an_image_without_an_index_is_read(registry: Registry) -> None:
    manifest = registry.add_image(layer_with(b"proxy"))
    assert await resolve(registry, target=f"@{manifest['digest']}") == (manifest["digest"], 1)


async def test_layers_are_fetched(registry: Registry) -> None:
    proxy_image(registry, b"proxy")
    image = parse_reference(registry.image())
    async with httpx.AsyncClient() as client:
        opened = Opened(client, image, None)
        _, layers = await opened.resolve("amd64")
        file = io.BytesIO()
        await opened.fetch_layer(layers[-1], file, lambda *_: None)
    assert file.getvalue() == layer_with(b"proxy")


async def test_another_content_than_the_digest_names_is_refused(registry: Registry) -> None:
    digest = proxy_image(registry, b"proxy")
    media_type, content = registry.documents[digest]
    registry.documents[digest] = (media_type, content + b" ")
    with pytest.raises(BadImage, match="another content"):
        await resolve(registry, target=f"@{digest}")


async def test_an_image_of_another_architecture_is_refused(registry: Registry) -> None:
    registry.add_index(registry.add_image(layer_with(b"proxy"), architecture="arm64"))
    with pytest.raises(BadImage, match="not for linux/amd64, only for linux/arm64"):
        await resolve(registry)


async def test_an_image_that_is_offered_for_another_architecture_is_refused(registry: Registry) -> None:
    registry.add_index(registry.add_image(layer_with(b"proxy"), config="arm64"))
    with pytest.raises(BadImage, match="the image is for arm64, not for amd64"):
        await resolve(registry)


async def test_a_tag_that_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(HostError, match="no such thing"):
        await resolve(registry)


def guarded(realm: str, *, basic: bool = False):  # type: ignore[no-untyped-def]
    """A registry that wants a token, or the password, and gives out tokens for the password."""
    basic_value = f"Basic {base64.b64encode(PASSWORD.encode()).decode()}"
    wanted = basic_value if basic else "Bearer pass"

    def behave(_registry: Registry, request: object, answer: Answer) -> Answer:
        headers, path = request.headers, request.path  # type: ignore[attr-defined]
        if path.startswith("/token"):
            is_known = headers.get("Authorization") == basic_value
            return Answer(200, json.dumps({"token": "pass" if is_known else "none"}).encode())
        if headers.get("Authorization") == wanted:
            return answer
        challenge = 'Basic realm="r"' if basic else f'Bearer realm="{realm}",service="r"'
        return Answer(401, headers={"WWW-Authenticate": challenge})

    return behave


async def test_a_token_is_got_with_the_password_once(registry: Registry) -> None:
    digest = proxy_image(registry, b"proxy")
    registry.behave = guarded(f"http://{registry.host}/token")
    assert await resolve(registry, password=PASSWORD) == (digest, 2)
    assert [path for path, _ in registry.requests if path.startswith("/token")] == [
        "/token?service=r&scope=repository%3Alinkerd%2Fproxy%3Apull"
    ]


async def test_the_password_itself_is_sent_only_if_asked_for(registry: Registry) -> None:
    digest = proxy_image(registry, b"proxy")
    registry.behave = guarded("", basic=True)
    assert await resolve(registry, password=PASSWORD) == (digest, 2)
    assert "Authorization" not in registry.headers[0]


async def test_without_a_password_access_is_denied(registry: Registry) -> None:
    proxy_image(registry, b"proxy")
    for behaviour in (guarded(f"http://{registry.host}/token"), guarded("", basic=True), guarded("nowhere")):
        registry.behave = behaviour
        with pytest.raises(HostError) as caught:
            await resolve(registry)
        assert PASSWORD not in str(caught.value)
    registry.behave = guarded("", basic=True)
    with pytest.raises(HostError, match="denies access, with status 401") as caught:
        await resolve(registry)
    assert "--auth-file" in caught.value.hint
