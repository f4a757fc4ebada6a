"""ServiceAccount tokens: JWTs signed with ES256, bound to an account's uid. Pure, given the key and the time.

Rules: a token is good if we signed it, it is for our audience, its time has not run out, and its account still exists
with the uid it names. So it dies with its account, and a new account of the same name does not revive it. A refusal
never states the reason. Claims: k8s.io/kubernetes pkg/serviceaccount/claims.go.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk, jwt
from jwcrypto.common import JWException

from exclave.api.requests import API_AUDIENCE
from exclave.kit.formats.kubernetes import INTEGER, STRING, list_of
from exclave_sandbox.apiserver.access import User, account_user
from exclave_sandbox.apiserver.kinds.schema import check_schema
from exclave_sandbox.apiserver.messages import Cause, Object, bad_request, invalid, unauthorized

ISSUER = API_AUDIENCE
LEAST_SECONDS = 600
MOST_SECONDS = 2**32
DEFAULT_SECONDS = 3600
_ALGORITHM = "ES256"
CACHED = 4096
"""Verified tokens that are cached."""


@dataclass(frozen=True)
class Account:
    """The ServiceAccount of a token."""

    namespace: str
    name: str
    uid: str

    @property
    def user(self) -> User:
        """The user of its tokens."""
        return account_user(self.namespace, self.name)


@dataclass(frozen=True)
class TokenRequest:
    """A TokenRequest: audiences, and lifetime in seconds."""

    audiences: tuple[str, ...]
    seconds: int


def parse_token_request(body: Any) -> TokenRequest:
    """Parse a TokenRequest's body. Raises Refusal: 400, or 422 for a lifetime that is too short or too long."""
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
    """A P-256 key that signs tokens and verifies them."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = jwk.JWK.from_pyca(key)
        self._claims = lru_cache(CACHED)(self._verified_claims)

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
        token = jwt.JWT(header={"alg": _ALGORITHM, "typ": "JWT"}, claims=claims)
        token.make_signed_token(self._key)
        return str(token.serialize())

    def account_of(self, token: str, now: float) -> Account:
        """The account that a token names. Raises Refusal (401) unless it is ours, for us, and in its time."""
        claims = self._claims(token)
        if not claims["nbf"] <= now + 1 or now >= claims["exp"] or API_AUDIENCE not in claims["aud"]:
            raise unauthorized()
        private = claims["kubernetes.io"]
        return Account(private["namespace"], private["serviceaccount"]["name"], private["serviceaccount"]["uid"])

    def _verified_claims(self, token: str) -> Object:
        try:
            # Without its check of claims: that goes by the system's clock, and ours may be another.
            verified = jwt.JWT(jwt=token, key=self._key, algs=[_ALGORITHM], check_claims=False)
        except (JWException, ValueError, TypeError):
            raise unauthorized() from None
        claims: Object = json.loads(verified.claims)
        return claims
