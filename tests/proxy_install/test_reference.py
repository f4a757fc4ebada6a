"""Names of images."""

import pytest

from exclave.errors import UsageError
from exclave.proxy_install.reference import ImageReference, at_mirror, parse_reference

DIGEST = f"sha256:{'0a' * 32}"

GOOD = {
    "cr.l5d.io/linkerd/proxy:edge-26.8.3": ImageReference("cr.l5d.io", "linkerd/proxy", "edge-26.8.3"),
    f"cr.l5d.io/linkerd/proxy@{DIGEST}": ImageReference("cr.l5d.io", "linkerd/proxy", "", DIGEST),
    f"cr.l5d.io/linkerd/proxy:v1@{DIGEST}": ImageReference("cr.l5d.io", "linkerd/proxy", "v1", DIGEST),
    "localhost:5000/proxy:v1": ImageReference("localhost:5000", "proxy", "v1"),
    "localhost/proxy:v1": ImageReference("localhost", "proxy", "v1"),
    "10.0.0.1:5000/a/b_c/d-e:v1": ImageReference("10.0.0.1:5000", "a/b_c/d-e", "v1"),
    "[fd00::1]:5000/proxy:v1": ImageReference("[fd00::1]:5000", "proxy", "v1"),
}


@pytest.mark.parametrize(("text", "image"), GOOD.items(), ids=GOOD)
def test_a_name_is_read_and_written(text: str, image: ImageReference) -> None:
    assert parse_reference(text) == image
    assert str(image) == text
    assert image.target == (image.digest or image.tag)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("linkerd/proxy:v1", "names no registry"),
        ("cr.l5d.io/linkerd/proxy", "no tag and no digest"),
        ("proxy", "no name of an image"),
        ("", "no name of an image"),
        ("https://cr.l5d.io/linkerd/proxy:v1", "no name of an image"),
        ("cr.l5d.io/Linkerd/proxy:v1", "no name of an image"),
        ("cr.l5d.io/../proxy:v1", "no name of an image"),
        ("cr.l5d.io/linkerd/proxy@sha256:00", "no name of an image"),
        ("user:secret@cr.l5d.io/linkerd/proxy:v1", "no name of an image"),
        (f"cr.l5d.io/{'a' * 600}:v1", "no name of an image"),
    ],
)
def test_another_text_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_reference(text)


@pytest.mark.parametrize(
    ("host", "scheme"),
    [("cr.l5d.io", "https"), ("10.0.0.1:5000", "https"), ("localhost:5000", "http"), ("127.0.0.1:5000", "http"),
     ("[::1]:5000", "http"), ("localhost.example.com", "https")],
)  # fmt: skip
def test_only_a_registry_of_this_machine_is_read_without_tls(host: str, scheme: str) -> None:
    assert parse_reference(f"{host}/proxy:v1").base == f"{scheme}://{host}"


def test_a_mirror_has_the_image_below_its_prefix() -> None:
    image = parse_reference(f"cr.l5d.io/linkerd/proxy:v1@{DIGEST}")
    assert str(at_mirror(image, "mirror.example.com:5000")) == f"mirror.example.com:5000/linkerd/proxy:v1@{DIGEST}"
    assert str(at_mirror(image, "mirror.example.com/l5d/")) == f"mirror.example.com/l5d/linkerd/proxy:v1@{DIGEST}"
    with pytest.raises(UsageError):
        at_mirror(image, "https://mirror.example.com")
