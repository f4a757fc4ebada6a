"""The member's own Kubernetes token, and when to renew it. No error and no repr shows any part of a token. Pure."""

import json
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from exclave.api.jwt import read_claims_untrusted
from exclave.api.requests import Object
from exclave.kit.formats.json_text import parse_json
from exclave.kit.formats.times import epoch


@dataclass(frozen=True)
class Credential:
    """A token, valid from `granted` to `expires` (epoch seconds)."""

    token: str = field(repr=False)
    granted: float
    expires: float

    @property
    def renew_at(self) -> float:
        """The time when half of its life is over; 0 if it ends before it begins, because clocks differ."""
        life = self.expires - self.granted
        return self.granted + life / 2 if life > 0 else 0.0


def render_credential(credential: Credential) -> str:
    """The text of credential.json."""
    tree = {"token": credential.token, "granted": credential.granted, "expires": credential.expires}
    return json.dumps(tree, indent=1) + "\n"


def parse_credential(text: str) -> Credential:
    """Parse the text of credential.json. Raises ValueError, which quotes nothing of it."""
    try:
        tree = parse_json(text)
    except ValueError:
        raise ValueError("a credential in JSON was expected") from None
    if not isinstance(tree, dict):
        raise ValueError("a JSON object with token, granted and expires was expected")
    token = tree.get("token")
    if not is_token(token):
        raise ValueError("a token of visible ASCII characters was expected")
    return Credential(token, _epoch(tree, "granted"), _epoch(tree, "expires"))


def granted_credential(answer: Object, now: float, asked: float) -> Credential:
    """The credential that a TokenRequest granted at `now` (epoch seconds), for at most `asked` seconds.

    A later end means that the server's clock is ahead of ours. Raises ValueError if the answer has no token.
    Source: TokenRequestStatus in k8s.io/api/authentication/v1/types.go.
    """
    status = answer.get("status")
    token = status.get("token") if isinstance(status, dict) else None
    if not isinstance(status, dict) or not is_token(token):
        raise ValueError("the answer to a TokenRequest was expected to hold a token")
    expires = epoch(str(status.get("expirationTimestamp")))
    if expires is None:
        raise ValueError("the answer to a TokenRequest was expected to hold an expirationTimestamp")
    return Credential(token, now, min(expires, now + asked))


def read_token_times(token: str) -> tuple[float, float]:
    """`iat` and `exp` of a Kubernetes token (RFC 7519, section 4.1). Raises ValueError.

    The signature is not checked: only the API server can do that.
    """
    claims = read_claims_untrusted(token)
    return _epoch(claims, "iat"), _epoch(claims, "exp")


def token_subject(token: str) -> str:
    """The owner, for messages, such as `system:serviceaccount:shop-vms:web.vm.k7q2x-1`; unverified."""
    try:
        subject = read_claims_untrusted(token).get("sub")
    except ValueError:
        subject = None
    return subject if isinstance(subject, str) and subject else "the bearer of an unnamed token"


def is_token(value: object) -> TypeGuard[str]:
    """True if it may be in a header. Otherwise a library's error would quote it."""
    return isinstance(value, str) and value != "" and value.isascii() and value.isprintable() and " " not in value


def _epoch(tree: dict[str, Any], name: str) -> float:
    value = tree.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{name}: seconds since the epoch were expected")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: seconds since the epoch were expected") from None
