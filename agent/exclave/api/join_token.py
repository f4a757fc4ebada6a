"""The join token: one line that lets a machine become a member of one group. No error here quotes it. Pure.

Format: `exclave1_` (1: the version) and base64url without padding of zlib of compact JSON; unknown keys are ignored.
The CA is inside, since a root that a server does not send in its handshake cannot be checked by hash; without one,
the machine's own CAs count.
The JWT's subject names the Members that it may create: `system:serviceaccount:<ns>-vms:<group>.join.<id>-<uses>`,
or `….rejoin.<id>-<number>` for one named member. Only the API server verifies it.
"""

import base64
import binascii
import hashlib
import json
import re
import zlib
from dataclasses import dataclass, field

from exclave.api.jwt import read_claims_untrusted
from exclave.errors import Fault, TokenError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.formats.proxy_url import check_proxy_url
from exclave.kit.formats.times import epoch, rfc3339

PREFIX = "exclave1_"
MOST_LINE = 32 * 1024  # characters of a new one: it must fit into clipboards, cloud-init and systemd credentials
MOST_UNPACKED = 64 * 1024  # bytes; more is refused before it is unpacked

_ANY_PREFIX = re.compile(r"exclave(\d+)_")
_HOST = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._:]{0,251}[A-Za-z0-9])?", re.ASCII)
_ACCOUNT = re.compile(
    r"(?P<group>[a-z0-9](?:[-a-z0-9]{0,38}[a-z0-9])?)[.](?P<kind>join|rejoin)[.](?P<id>[a-z0-9]{5})-(?P<uses>[1-9][0-9]{0,2})"
)
_AGAIN = "ask the admin for a new one: kubectl exclave token create GROUP"


@dataclass(frozen=True)
class JoinToken:
    """The content of a join token."""

    servers: tuple[str, ...]  # https URLs
    ca: str  # PEM; "": the CAs that the machine trusts
    namespace: str
    group: str
    token: str = field(repr=False)  # a Kubernetes JWT
    expires: float  # epoch seconds, for messages only
    proxy_image: str = ""  # that the cluster runs, for a machine without a proxy; "" if it is unknown
    tls_name: str = ""  # of the servers' certificates, "": the one in each URL
    proxy: str = ""  # URL of an HTTP proxy to the servers

    @property
    def account(self) -> str:
        """The join account's name. Raises TokenError if the JWT names none."""
        try:
            subject = read_claims_untrusted(self.token).get("sub")
        except ValueError:
            subject = None
        name = subject.split(":")[-1] if isinstance(subject, str) else ""
        if not _ACCOUNT.fullmatch(name):
            raise _malformed("the Kubernetes token inside is not one of a join account")
        return name

    @property
    def is_for_one(self) -> bool:
        """True if it is for one named member whose machine joins again."""
        return self.account.split(".")[1] == "rejoin"

    @property
    def member_names(self) -> tuple[str, ...]:
        """The Members that it may create."""
        found = _ACCOUNT.fullmatch(self.account)
        assert found is not None
        if self.is_for_one:
            return (f"{found['group']}-{found['id']}-{found['uses']}",)
        return tuple(f"{found['group']}-{found['id']}-{number}" for number in range(1, int(found["uses"]) + 1))


FEW = 10  # up to this number, names are tried in order; of more, each machine tries them in its own order


def order_of_trial(names: tuple[str, ...], nonce: str) -> tuple[str, ...]:
    """The order in which a machine tries a token's names, also after a crash."""
    # If all machines of a fleet began with the first name, requests would grow with the square of their number.
    if len(names) <= FEW:
        return names
    return tuple(sorted(names, key=lambda name: hashlib.sha256(f"{nonce} {name}".encode()).digest()))


def encode_token(token: JoinToken) -> str:
    """The token as its one line. Raises ValueError if it would be too large."""
    tree = {
        "servers": list(token.servers),
        "ca": token.ca,
        "namespace": token.namespace,
        "group": token.group,
        "token": token.token,
        "expires": rfc3339(token.expires),
        **({"proxyImage": token.proxy_image} if token.proxy_image else {}),
    }
    tree |= {key: text for key, text in (("tlsName", token.tls_name), ("proxy", token.proxy)) if text}
    content = json.dumps(tree, separators=(",", ":")).encode()
    line = PREFIX + base64.urlsafe_b64encode(zlib.compress(content, 9)).decode().rstrip("=")
    if len(content) > MOST_UNPACKED or len(line) > MOST_LINE:
        raise ValueError(f"it would have {len(line)} characters; at most {MOST_LINE} were expected")
    return line


def decode_token(text: str) -> JoinToken:
    """Read a token's line. Raises TokenError if it is malformed or of another version."""
    text = text.strip()
    version = _ANY_PREFIX.match(text)
    if version is None:
        raise _malformed(f"a line that begins with {PREFIX} was expected, found {len(text)} characters without it")
    if version[1] != "1":
        raise TokenError(
            Fault.TOKEN_VERSION,
            f"this join token has version {version[1]}; this exclave reads version 1",
            "install an exclave as new as the admin's, or ask for a token of version 1",
        )
    return _parse(_unpack(text[len(PREFIX) :], len(text)))


def _unpack(body: str, length: int) -> bytes:
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(packed, MOST_UNPACKED + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise _malformed(f"the join token is damaged; {length} characters arrived") from None
    if len(content) > MOST_UNPACKED:
        raise _malformed(f"the join token unpacks to more than {MOST_UNPACKED} bytes")
    if not unpacker.eof:
        raise _malformed(f"the join token is cut off after {length} characters")
    return content


def _parse(content: bytes) -> JoinToken:
    try:
        tree = parse_json(content)
        servers, ca = tree["servers"], tree["ca"]
        if not isinstance(servers, list):
            raise TypeError
        texts = [tree[key] for key in ("namespace", "group", "token", "expires")]
        expires, image = epoch(texts[3]), tree.get("proxyImage", "")
        more = [tree.get("tlsName", ""), tree.get("proxy", "")]
        if expires is None or not all(isinstance(text, str) and text for text in [*texts, *servers]) or not servers:
            raise ValueError
        if not all(isinstance(text, str) for text in [ca, image, *more]):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _malformed("the join token lacks something that every join token holds") from None
    if not all(server.startswith("https://") for server in servers):
        raise _malformed("the join token names a server that is not reached by https")
    if (more[0] and not is_host(more[0])) or not _is_proxy(more[1]):
        raise _malformed("the join token names a proxy or a TLS name that is none")
    token = JoinToken(tuple(servers), ca, texts[0], texts[1], texts[2], expires, image, *more)
    if token.account.split(".")[0] != token.group:
        raise _malformed("the join token is for one group and the account inside for another")
    return token


def is_host(text: str) -> bool:
    """True for a name or an address that a certificate may have."""
    return _HOST.fullmatch(text) is not None


def _is_proxy(text: str) -> bool:
    try:
        return not text or check_proxy_url(text) == text
    except ValueError:
        return False


def _malformed(message: str) -> TokenError:
    return TokenError(Fault.TOKEN_MALFORMED, message, f"copy the whole line again, or {_AGAIN}")
