"""How a registry asks for a token, and the passwords for registries in a file of Docker's form. Pure.

Sources: distribution.github.io/distribution/spec/auth/token; RFC 9110, section 11; docker/cli, cli/config/configfile.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit, urlunsplit

from exclave.kit.formats.json_text import parse_json

_PARAMETER = re.compile(r'\s*([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|$)')


@dataclass(frozen=True)
class Challenge:
    """What a registry asks for: `scheme` is `bearer` or `basic`, in lower case."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge | None:
    """The first challenge in a `WWW-Authenticate` header that can be answered; None without one."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() not in ("bearer", "basic"):
        return None
    found: dict[str, str] = {}
    place = 0
    while (match := _PARAMETER.match(rest, place)) is not None:
        quoted, plain = match[2], match[3]
        found.setdefault(match[1].lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        place = match.end()
    return Challenge(scheme.lower(), found.get("realm", ""), found.get("service", ""), found.get("scope", ""))


def token_url(challenge: Challenge, repository: str) -> str:
    """The URL to get a token from. Raises ValueError if the registry names none that may be asked."""
    parts = urlsplit(challenge.realm)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
        raise ValueError("the registry names no URL where it gives out tokens")
    # The scope is ours: a registry cannot make this machine ask for more than to pull.
    query = {"service": challenge.service, "scope": f"repository:{repository}:pull"}
    added = urlencode({key: value for key, value in query.items() if value})
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added, fragment=""))


def read_token(answer: bytes) -> str:
    """The token in the answer of a token server. Raises ValueError."""
    found = parse_json(answer)
    token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise ValueError("the registry's token server answered without a token")
    return token


def read_password(text: bytes, registry: str) -> str | None:
    """User and password, `USER:PASSWORD`, for a registry in a file as `docker login` writes it; None without an entry.

    Raises ValueError, which quotes nothing of the file.
    """
    found = parse_json(text)
    entries = found.get("auths") if isinstance(found, dict) else None
    if not isinstance(entries, dict):
        raise ValueError('a JSON object with "auths" was expected')
    for name in (registry, f"https://{registry}", f"https://{registry}/v2/", f"https://{registry}/v1/"):
        entry = entries.get(name)
        encoded = entry.get("auth") if isinstance(entry, dict) else None
        if encoded is None:
            continue
        try:
            plain = base64.b64decode(str(encoded), validate=True).decode()
        except (binascii.Error, ValueError):
            plain = ""
        if ":" not in plain:
            raise ValueError(f'auths: {name}: "auth" is no base64 of USER:PASSWORD')
        return plain
    return None
