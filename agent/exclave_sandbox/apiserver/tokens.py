"""ServiceAccount tokens: JWTs signed with ES256, bound to an account's uid. Pure, given the key and the time.

Rules: a token is good if we signed it, it is for our audience, its time has not run out, and its account still exists
with the uid it names; so it dies with its account, and a new account of the same name does not revive it. Why a token
was refused is never said. Formats: RFC 7515, RFC 7518 (ES256), k8s.io/kubernetes pkg/serviceaccount/claims.go.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from exclave.api.requests import API_AUDIENCE
from exclave.kit.formats.openapi import INTEGER, STRING, list_of
from exclave_sandbox.apiserver.access import User, account_user
from exclave_sandbox.apiserver.kinds.schema import check_schema
from exclave_sandbox.apiserver.refusal import Cause, Object, Refusal, bad_request, invalid, unauthorized

ISSUER = API_AUDIENCE
LEAST_SECONDS = 600
MOST_SECONDS = 2**32
DEFAULT_SECONDS = 3600
REMEMBERED = 4096
"""Tokens whose signature need not be checked again."""


@dataclass(frozen=True)
class Account:
    """The ServiceAccount that a token speaks for."""

    namespace: str
    name: str
    uid: str

    @property
    def user(self) -> User:
        """The caller that its tokens make."""
        return account_user(self.namespace, self.name)


@dataclass(frozen=True)
class TokenRequest:
    """What a TokenRequest asks for: audiences, and seconds of life."""

    audiences: tuple[str, ...]
    seconds: int


def parse_token_request(body: Any) -> TokenRequest:
    """Read a TokenRequest's body. Raises Refusal: 400, or 422 for a life that is too short or too long."""
    spec = body.get("spec", {}) if isinstance(body, dict) else None
    if not isinstance(spec, dict):
        raise bad_request("the body is no TokenRequest: a JSON object with spec was expected")
    if spec.get("boundObjectRef") is not None:
        raise bad_request("tokens bound to an object are not made here")
    seconds = spec.get("expirationSeconds")
    seconds = DEFAULT_SECONDS if seconds is None else seconds
    audiences = spec.get("audiences") or [API_AUDIENCE]
    mistakes = (*check_schema(seconds, INTEGER, ""), *check_schema(audiences, list_of(STRING), ""))
    if mistakes:
        raise bad_request("the body is no TokenRequest: spec.expirationSeconds or spec.audiences is of the wrong type")
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        limit = "less than 10 minutes" if seconds < LEAST_SECONDS else "larger than 2^32 seconds"
        message = f"Invalid value: {seconds}: may not specify a duration {limit}"
        raise invalid("TokenRequest.authentication.k8s.io", "", [Cause("spec.expirationSeconds", message)])
    return TokenRequest(tuple(audiences), seconds)


class TokenKey:
    """Signs tokens with a P-256 key, and knows its own again."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._claims = lru_cache(REMEMBERED)(self._verified_claims)

    def mint(self, account: Account, request: TokenRequest, now: float, token_id: str) -> str:
        """A token of `account`, from `now` (epoch seconds) on; `token_id` is its `jti`."""
        issued = int(now)
        claims = {
            "aud": list(request.audiences),
            "exp": issued + request.seconds,
            "iat": issued,
            "iss": ISSUER,
            "jti": token_id,
            "kubernetes.io": {
                "namespace": account.namespace,
                "serviceaccount": {"name": account.name, "uid": account.uid},
            },
            "nbf": issued,
            "sub": account.user.name,
        }
        signed = f"{_encode({'alg': 'ES256', 'typ': 'JWT'})}.{_encode(claims)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def account_of(self, token: str, now: float) -> Account:
        """The account a token says it speaks for. Raises Refusal (401) unless it is ours, for us, and in its time."""
        claims = self._claims(token)
        if not claims["nbf"] <= now + 1 or now >= claims["exp"] or API_AUDIENCE not in claims["aud"]:
            raise unauthorized()
        private = claims["kubernetes.io"]
        return Account(private["namespace"], private["serviceaccount"]["name"], private["serviceaccount"]["uid"])

    def _verified_claims(self, token: str) -> Object:
        try:
            signed, _, signature = token.rpartition(".")
            raw = _from_base64url(signature)
            if len(raw) != 64:
                raise unauthorized()
            pair = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            self._key.public_key().verify(pair, signed.encode(), ec.ECDSA(hashes.SHA256()))
            claims: Object = json.loads(_from_base64url(signed.partition(".")[2]))
        except Refusal:
            raise
        except (InvalidSignature, ValueError, binascii.Error):
            raise unauthorized() from None
        return claims


def _encode(part: Object) -> str:
    return _base64url(json.dumps(part, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
