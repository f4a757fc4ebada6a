"""Names of container images, such as `cr.l5d.io/linkerd/proxy:edge-26.8.3@sha256:…`. Pure.

Source: github.com/opencontainers/distribution-spec, spec.md, "Pulling manifests"; github.com/distribution/reference.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

from exclave.errors import UsageError

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    r"(?P<registry>(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    rf"/(?P<repository>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
LONGEST = 512  # characters
EXAMPLE = "cr.l5d.io/linkerd/proxy:edge-26.8.3"


@dataclass(frozen=True)
class ImageReference:
    """An image. `registry` is a host, with a port if it is not 443. `digest` is `sha256:` and 64 hex digits, or ""."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag, digest = self.tag and f":{self.tag}", self.digest and f"@{self.digest}"
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    @property
    def host(self) -> str:
        """The registry without its port, IPv6 without brackets."""
        return re.sub(r":[0-9]+$", "", self.registry).strip("[]")

    @property
    def base(self) -> str:
        """The URL of the registry. As other tools do, a registry of this machine itself is read without TLS."""
        return f"{'http' if is_local(self.host) else 'https'}://{self.registry}"


def parse_reference(text: str) -> ImageReference:
    """The image that a text names. Raises UsageError: the registry must be named, and a tag or a digest."""
    found = _IMAGE.fullmatch(text) if len(text) <= LONGEST else None
    if found is None:
        raise UsageError(f"{text[:LONGEST]!r} is no name of an image", f"for instance: {EXAMPLE}")
    parts = found.groupdict(default="")
    registry = parts["registry"]
    if "." not in registry and ":" not in registry and registry != "localhost":
        raise UsageError(f"the image {text} names no registry", f"put its registry first, for instance: {EXAMPLE}")
    if not parts["tag"] and not parts["digest"]:
        raise UsageError(f"the image {text} has no tag and no digest", f"add one, for instance: {EXAMPLE}")
    return ImageReference(registry, parts["repository"], parts["tag"], parts["digest"])


def at_mirror(image: ImageReference, mirror: str) -> ImageReference:
    """The same image at a mirror, `HOST[:PORT][/PREFIX]`, which has it below its prefix. Raises UsageError."""
    host, _, prefix = mirror.strip("/").partition("/")
    text = "/".join(part for part in (host, prefix, image.repository) if part)
    found = parse_reference(f"{text}:{image.tag or 'x'}")
    return replace(found, tag=image.tag, digest=image.digest)


def is_local(host: str) -> bool:
    """True for this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
