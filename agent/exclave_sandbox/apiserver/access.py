"""Identifies callers, and decides what they may do: ServiceAccount tokens and RBAC. Pure, given the key and the time.

A token dies with its account; a new account of that name does not revive it. Its refusal never states the reason.
Sources: k8s.io/kubernetes pkg/serviceaccount/claims.go, plugin/pkg/auth/authorizer/rbac, pkg/registry/rbac/validation.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk, jwt
from jwcrypto.common import JWException

from exclave.api.requests import API_AUDIENCE
from exclave_sandbox.apiserver.kinds.schema import SHAPES, check_schema
from exclave_sandbox.apiserver.messages import Cause, Object, bad_request, invalid, unauthorized

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"


@dataclass(frozen=True)
class User:
    """A caller as RBAC sees it."""

    name: str
    groups: tuple[str, ...] = ()


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


def account_user(namespace: str, name: str) -> User:
    """The user of a ServiceAccount's token."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    return User(f"system:serviceaccount:{namespace}:{name}", groups)


@dataclass(frozen=True)
class Attempt:
    """A request to decide on: `resource` with its subresource ("members/status"); "" without namespace or name."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def refused(self, user: User) -> str:
        """The reason of a refusal, in kube-apiserver's words."""
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        what = f'resource "{self.resource}" in API group "{self.group}"'
        return f'User "{user.name}" cannot {self.verb} {what} {where}'


_Key = tuple[str, str]  # namespace ("" for what is cluster-wide) and name


@dataclass(frozen=True)
class _Binding:
    namespace: str  # "" when it binds in the whole cluster
    role: _Key
    subjects: tuple[str, ...]


class AccessRules:
    """All roles and bindings. `update` is called with each change."""

    def __init__(self) -> None:
        self._rules: dict[_Key, tuple[Object, ...]] = {}
        self._bindings: dict[_Key, _Binding] = {}
        self._of_subject: defaultdict[str, dict[_Key, None]] = defaultdict(dict)

    def update(self, kind: str, namespace: str, name: str, object_: Object | None) -> None:
        """Store a Role, ClusterRole or a binding of either; None removes it."""
        key = (namespace, name)
        if kind in ("Role", "ClusterRole"):
            if object_ is None:
                self._rules.pop(key, None)
            else:
                self._rules[key] = tuple(object_.get("rules") or ())
            return
        former = self._bindings.pop(key, None)
        for subject in former.subjects if former else ():
            self._of_subject[subject].pop(key, None)
        if object_ is None:
            return
        role = object_["roleRef"]
        found = _Binding(
            namespace,
            (namespace if role["kind"] == "Role" else "", role["name"]),
            tuple(_subject(subject, namespace) for subject in object_.get("subjects") or ()),
        )
        self._bindings[key] = found
        for subject in found.subjects:
            self._of_subject[subject][key] = None

    def allows(self, user: User, attempt: Attempt) -> bool:
        """True if a binding of this user or of one of its groups allows it."""
        if MASTERS in user.groups:
            return True
        return any(_permits(rule, attempt) for rule in self._rules_for(user, attempt.namespace))

    def _rules_for(self, user: User, namespace: str) -> Iterator[Object]:
        for subject in (f"User {user.name}", *(f"Group {group}" for group in user.groups)):
            for key in self._of_subject.get(subject, ()):
                binding = self._bindings[key]
                if binding.namespace in ("", namespace):
                    yield from self._rules.get(binding.role, ())


def _subject(subject: Object, namespace: str) -> str:
    if subject["kind"] == "ServiceAccount":
        return f"User {account_user(subject.get('namespace') or namespace, subject['name']).name}"
    return f"{subject['kind']} {subject['name']}"


def _permits(rule: Object, attempt: Attempt) -> bool:
    # resourceNames never allow a create, whose name the authorizer is not given, and a list or watch only where its
    # field selector names the object.
    names = rule.get("resourceNames")
    return (
        _matches(rule.get("verbs"), attempt.verb)
        and _matches(rule.get("apiGroups"), attempt.group)
        and _covers(rule.get("resources") or [], attempt.resource)
        and (not names or (attempt.name != "" and attempt.name in names))
    )


def _matches(allowed: list[str] | None, wanted: str) -> bool:
    return allowed is not None and ("*" in allowed or wanted in allowed)


def _covers(resources: list[str], wanted: str) -> bool:
    if "*" in resources or wanted in resources:
        return True
    _, slash, subresource = wanted.partition("/")
    return bool(slash) and f"*/{subresource}" in resources


ISSUER = API_AUDIENCE
LEAST_SECONDS = 600
MOST_SECONDS = 2**32
DEFAULT_SECONDS = 3600
_ALGORITHM = "ES256"
CACHED = 4096  # verified tokens that are cached


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
    read = {"spec": {"expirationSeconds": seconds, "audiences": audiences}}
    if any(check_schema(read, SHAPES["TokenRequest"], "")):
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
