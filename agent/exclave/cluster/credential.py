"""The member's own Kubernetes token, and when to renew it. Pure.

Rules: the token is renewed at half of the life that the server granted, which may be less than was asked for; a token
is read for its times and its subject only, and never trusted for either: the API server alone checks its signature.
No text made here, error or repr, holds a token or a part of one.
"""

import json
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from exclave.api.jwt import read_claims_untrusted
from exclave.api.requests import Object
from exclave.kit.formats.json_text import parse_json
from exclave.kit.formats.times import epoch


@dataclass(frozen=True)
class Credential:
    """A token with the times, in seconds since the epoch, between which we count on it."""

    token: str = field(repr=False)
    granted: float
    expires: float

    @property
    def renew_at(self) -> float:
        """When half of the granted life is over. One that ended before it began, by clocks that disagree: at once."""
        life = self.expires - self.granted
        return self.granted + life / 2 if life > 0 else 0.0


def render_credential(credential: Credential) -> str:
    """The text of credential.json."""
    tree = {"token": credential.token, "granted": credential.granted, "expires": credential.expires}
    return json.dumps(tree, indent=1) + "\n"


def parse_credential(text: str) -> Credential:
    """Read the text of credential.json. Raises ValueError, without quoting any of it."""
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
    """What a TokenRequest granted: at most the `asked` seconds from `now`, when the answer came (epoch seconds).

    A server whose clock is ahead of ours cannot grant more than it was asked for, so we do not believe it.
    Source: TokenRequestStatus in k8s.io/api/authentication/v1/types.go. Raises ValueError if there is no token in it.
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
    """`iat` and `exp` of a Kubernetes token (RFC 7519, section 4.1), unverified. Raises ValueError."""
    claims = read_claims_untrusted(token)
    return _epoch(claims, "iat"), _epoch(claims, "exp")


def token_subject(token: str) -> str:
    """Whose token it is, for messages, such as `system:serviceaccount:shop-vms:web.vm.k7q2x-1`; unverified."""
    try:
        subject = read_claims_untrusted(token).get("sub")
    except ValueError:
        subject = None
    return subject if isinstance(subject, str) and subject else "the bearer of an unnamed token"


def is_token(value: object) -> TypeGuard[str]:
    """True if this can stand in a header: what cannot would be quoted in the error of a library."""
    return isinstance(value, str) and value != "" and value.isascii() and value.isprintable() and " " not in value


def _epoch(tree: dict[str, Any], name: str) -> float:
    value = tree.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{name}: seconds since the epoch were expected")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: seconds since the epoch were expected") from None
