"""From a request to an answer: authentication, authorization, and the operation on the store. Pure, given the clock.

Order, as in kube-apiserver: identify the caller (401), parse the path (404, 405), authorize (403), read the body
(400, 413, 415), read or write the store (404, 409, 410, 422). A watch is returned as a plan. Its errors are ERROR
events in a stream that began with 200, as those of the watch cache of the real server.
"""

import hmac
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any
from urllib.parse import unquote

from exclave.kit.formats.json_text import parse_json
from exclave_sandbox.apiserver import access, messages
from exclave_sandbox.apiserver.access import AccessRules, Account, Attempt, TokenKey, User
from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.kinds.kinds import BY_PATH, KINDS, NAMESPACES, Kind, merge_patch
from exclave_sandbox.apiserver.lists import Selector, page_of, parse_selector, read_cursor
from exclave_sandbox.apiserver.messages import Cause, HttpRequest, Object, Refusal, Reply, bad_request, refusal_reply
from exclave_sandbox.apiserver.store import ObjectChange, Scope, Store

HEALTH_PATHS = ("/livez", "/readyz", "/healthz")
VERSION = {"major": "1", "minor": "30", "gitVersion": "v1.30.0+exclave-sandbox", "platform": "linux/amd64"}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SHORT_NAMES = {
    "configmaps": ["cm"],
    "namespaces": ["ns"],
    "pods": ["po"],
    "serviceaccounts": ["sa"],
    "services": ["svc"],
}


def discover(path: str, *, anonymous: bool) -> Reply | None:
    """The answer to a path without a resource, else None. Raises Refusal (403) if it needs an authenticated caller."""
    path = path.rstrip("/")
    if path in HEALTH_PATHS:
        return Reply(200, "ok")
    if path == "/version":
        return Reply(200, VERSION)
    found = _DOCUMENTS.get(path)
    if found is not None and anonymous:
        raise Refusal(403, "Forbidden", f'forbidden: User "system:anonymous" cannot get path "{path}"', {})
    return None if found is None else Reply(200, found)


def _api_resource(kind: Kind) -> list[Object]:
    resource = kind.resource
    found: Object = {"name": resource.plural, "singularName": resource.kind.lower(), "kind": resource.kind}
    found |= {"namespaced": resource.namespaced, "verbs": _VERBS, "shortNames": _SHORT_NAMES.get(resource.plural, [])}
    below = []
    for subresource in kind.subresources:
        verbs = ["create"] if subresource == "token" else ["get", "patch", "update"]
        below.append(
            {**found, "name": f"{resource.plural}/{subresource}", "singularName": "", "verbs": verbs, "shortNames": []}
        )
    return [found, *below]


def _documents() -> dict[str, Object]:
    versions = sorted({(kind.resource.group, kind.resource.version) for kind in KINDS})
    groups: list[Object] = []
    documents: dict[str, Object] = {"/api": {"kind": "APIVersions", "versions": ["v1"]}}
    for group, version in versions:
        group_version = f"{group}/{version}" if group else version
        kinds = [kind for kind in KINDS if (kind.resource.group, kind.resource.version) == (group, version)]
        documents[f"/apis/{group_version}" if group else f"/api/{version}"] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": [resource for kind in kinds for resource in _api_resource(kind)],
        }
        if group:
            named = {"groupVersion": group_version, "version": version}
            groups.append({"name": group, "versions": [named], "preferredVersion": named})
    documents["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return documents


_DOCUMENTS = _documents()
_OF_COLLECTION = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
_OF_OBJECT = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_OF_STATUS = {"GET": "get", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True)
class Target:
    """The object or collection of a path: `namespace` None means all namespaces, `name` "" the collection."""

    kind: Kind
    namespace: str | None
    name: str = ""
    subresource: str | None = None

    @property
    def home(self) -> str:
        """The namespace of an object, "" for cluster-wide kinds."""
        return self.namespace or ""


def parse_path(path: str) -> Target:
    """Parse an API path. Raises Refusal (404) if nothing is served there."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise messages.unknown_path()
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2 and (group, version, rest[2]) in BY_PATH:
        namespace, rest = rest[1], rest[2:]
    kind = BY_PATH.get((group, version, rest[0]))
    if kind is None or len(rest) > 3 or "" in rest or (namespace is not None and not kind.resource.namespaced):
        raise messages.unknown_path()
    if len(rest) > 1 and kind.resource.namespaced and namespace is None:
        raise messages.unknown_path()
    subresource = rest[2] if len(rest) == 3 else None
    if subresource is not None and subresource not in kind.subresources:
        raise messages.unknown_path()
    return Target(kind, namespace, rest[1] if len(rest) > 1 else "", subresource)


def verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    """The verb of a method, as RBAC names it. Raises Refusal (405)."""
    if target.subresource == "token":
        verbs = {"POST": "create"}
    elif target.subresource is not None:
        verbs = _OF_STATUS
    else:
        verbs = _OF_OBJECT if target.name else _OF_COLLECTION
    verb = verbs.get(method)
    if verb is None:
        raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})
    return "watch" if verb == "list" and query.get("watch") in ("1", "true") else verb


def attempt_of(verb: str, target: Target, selector: Selector) -> Attempt:
    """The request to authorize. The name in `fieldSelector=metadata.name=…` counts, so that resourceNames hold."""
    resource = target.kind.resource
    named = f"{resource.plural}/{target.subresource}" if target.subresource else resource.plural
    name = target.name or (selector.name or "" if verb != "create" else "")
    namespace = target.name if target.kind is NAMESPACES else target.home
    return Attempt(verb, resource.group, named, namespace, name)


ADMIN = User("kubernetes-admin", (access.MASTERS, access.AUTHENTICATED))
MOST_BODY = 3 * 1024 * 1024  # bytes of a request's body that kube-apiserver accepts
WATCH_SECONDS = 1800  # duration of a watch without timeoutSeconds: the shortest that kube-apiserver chooses
DELETED_LEEWAY = 60.0
"""Seconds that tokens of an account with finalizers outlive its deletion (pkg/serviceaccount/claims.go)."""
_PATCH_TYPE = "application/merge-patch+json"
_PROPAGATION = ("Foreground", "Background", "Orphan")
_RBAC_KINDS = (kinds.ROLES, kinds.CLUSTER_ROLES, kinds.ROLE_BINDINGS, kinds.CLUSTER_ROLE_BINDINGS)


@dataclass(frozen=True)
class Watch:
    """A watch to be served: `initial` objects first, then the changes after `revision`, for `seconds`."""

    kind: kinds.Kind
    scope: Scope
    selector: Selector
    revision: int
    initial: tuple[Object, ...]
    seconds: float
    bookmarks: bool


class Api:
    """Answers requests at `now`, in epoch seconds. `counts` counts them by user, verb and resource."""

    def __init__(
        self, store: Store, key: TokenKey, admin_token: str, now: Callable[[], float], new_uid: Callable[[], str]
    ) -> None:
        self._store = store
        self._key = key
        self._admin_token = admin_token.encode()
        self._clock = now
        self._new_uid = new_uid
        self._access = AccessRules()
        self.counts: Counter[tuple[str, str, str]] = Counter()
        for kind in _RBAC_KINDS:
            store.history.follow(Scope(kind.key), partial(self._update_access, kind.resource.kind))

    def _update_access(self, kind: str, change: ObjectChange) -> None:
        self._access.update(kind, change.namespace, change.name, change.after)

    def respond(self, request: HttpRequest) -> Reply | Watch:
        """The answer to a request; never raises Refusal."""
        try:
            user = self._identify(request.headers.get("authorization", ""))
            found = discover(request.path, anonymous=user is access.ANONYMOUS) if request.method == "GET" else None
            return found or self._respond(user, request)
        except Refusal as refused:
            return refusal_reply(refused)

    def _identify(self, authorization: str) -> User:
        scheme, _, token = authorization.partition(" ")
        if not authorization:
            return access.ANONYMOUS
        if scheme.lower() != "bearer":
            raise messages.unauthorized()
        if hmac.compare_digest(token.encode(), self._admin_token):
            return ADMIN
        account = self._key.account_of(token, self._clock())
        found = self._store.find(kinds.SERVICE_ACCOUNTS, account.namespace, account.name)
        if found is None or found["metadata"]["uid"] != account.uid or self._is_long_deleted(found):
            raise messages.unauthorized()
        return account.user

    def _is_long_deleted(self, account: Object) -> bool:
        deleted = account["metadata"].get("deletionTimestamp")
        if not deleted:
            return False
        since = datetime.strptime(deleted, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        return self._clock() - since.timestamp() > DELETED_LEEWAY

    def _respond(self, user: User, request: HttpRequest) -> Reply | Watch:
        query = request.query
        target = parse_path(request.path)
        verb = verb_of(request.method, target, query)
        selector = parse_selector(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        attempt = attempt_of(verb, target, selector)
        self.counts[user.name, attempt.verb, attempt.resource] += 1
        if not self._access.allows(user, attempt):
            raise messages.forbidden(target.kind.key, attempt.name, attempt.refused(user))
        if query.get("dryRun"):
            raise bad_request("dryRun is not served here")
        if verb == "watch":
            return self._watch(target, selector, query)
        if verb in ("get", "list"):
            return Reply(200, self._read(target, selector, query))
        if target.subresource == "token":
            return Reply(201, self._mint(target, _body(request)))
        return self._write(verb, target, selector, request)

    def _read(self, target: Target, selector: Selector, query: Mapping[str, str]) -> Object:
        if target.name:
            return self._store.get(target.kind, target.home, target.name)
        revision, after = _number(query, "resourceVersion"), ""
        if revision > self._store.revision:
            raise messages.too_large_version(revision, self._store.revision)
        if query.get("resourceVersionMatch") != "Exact":
            revision = self._store.revision
        if query.get("continue"):
            if query.get("resourceVersion"):
                raise bad_request("specifying resource version is not allowed when using continue")
            revision, after = read_cursor(query["continue"])
        found = self._store.select_at(target.kind, target.namespace, selector, revision)
        resource = target.kind.resource
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            **page_of(found, _number(query, "limit"), after, revision, counted=not selector.requirements),
        }

    def _watch(self, target: Target, selector: Selector, query: Mapping[str, str]) -> Watch:
        if query.get("sendInitialEvents"):
            raise bad_request("sendInitialEvents is not served here")
        revision = _number(query, "resourceVersion")
        initial: list[Object] = []
        namespace = selector.namespace if target.namespace is None else target.namespace
        if revision == 0:
            revision = self._store.revision
            initial = self._store.select(target.kind, target.namespace, selector)
        seconds = _number(query, "timeoutSeconds") or WATCH_SECONDS
        scope = Scope(target.kind.key, namespace, selector.name)
        bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        return Watch(target.kind, scope, selector, revision, tuple(initial), seconds, bookmarks)

    def _write(self, verb: str, target: Target, selector: Selector, request: HttpRequest) -> Reply:
        store, kind, home, name = self._store, target.kind, target.home, target.name
        if verb == "create":
            return Reply(201, store.create(kind, home, _body(request)))
        if verb == "update":
            return Reply(200, store.replace(kind, home, name, _body(request), target.subresource))
        if verb == "patch":
            patch = _body(request, _PATCH_TYPE)
            return Reply(200, store.patch(kind, home, name, lambda old: merge_patch(old, patch), target.subresource))
        preconditions, orphan = _deletion(request)
        if verb == "delete":
            found, gone = store.delete(kind, home, name, preconditions, orphan=orphan)
            return Reply(200, _success(kind, found) if gone else found)
        found_all = store.select(kind, target.namespace, selector)
        for found in found_all:
            metadata = found["metadata"]
            if store.find(kind, metadata.get("namespace", ""), metadata["name"]) is not None:
                store.delete(kind, metadata.get("namespace", ""), metadata["name"], orphan=orphan)
        resource = kind.resource
        listed = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "items": found_all}
        return Reply(200, {**listed, "metadata": {"resourceVersion": str(store.revision)}})

    def _mint(self, target: Target, body: Any) -> Object:
        found = self._store.get(target.kind, target.home, target.name)
        asked = access.parse_token_request(body)
        now = self._clock()
        account = Account(target.home, target.name, found["metadata"]["uid"])
        token = self._key.mint(account, asked, now, self._new_uid())
        ends = datetime.fromtimestamp(int(now) + asked.seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": target.name, "namespace": target.home},
            "spec": {"audiences": list(asked.audiences), "expirationSeconds": asked.seconds},
            "status": {"token": token, "expirationTimestamp": ends},
        }


def _success(kind: kinds.Kind, found: Object) -> Object:
    details = {**messages.details_of(kind.key, found["metadata"]["name"]), "uid": found["metadata"]["uid"]}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _body(request: HttpRequest, wanted: str = "application/json") -> Any:
    if len(request.body) > MOST_BODY:
        raise Refusal(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MOST_BODY}")
    content_type = request.headers.get("content-type", wanted).partition(";")[0].strip()
    if content_type != wanted:
        message = f"the body of the request was in an unknown format - accepted media types include: {wanted}"
        raise Refusal(415, "UnsupportedMediaType", message)
    try:
        return parse_json(request.body)
    except ValueError as problem:
        raise bad_request(f"the body is not JSON: {problem}") from None


def _deletion(request: HttpRequest) -> tuple[Object, bool]:
    """A deletion's preconditions, and whether the objects that it owns are orphaned. Raises Refusal."""
    # The options are in the body, or without one in the query: k8s.io/apiserver pkg/endpoints/handlers/delete.go.
    options = _body(request) if request.body else dict(request.query)
    options = options if isinstance(options, dict) else {}
    policy, preconditions = options.get("propagationPolicy"), options.get("preconditions")
    if policy not in (None, "", *_PROPAGATION):
        listed = ", ".join(f'"{one}"' for one in (*_PROPAGATION, "nil"))
        message = f'Unsupported value: "{policy}": supported values: {listed}'
        cause = Cause("propagationPolicy", message, "FieldValueNotSupported")
        raise messages.invalid("DeleteOptions.meta.k8s.io", "", [cause])
    return preconditions if isinstance(preconditions, dict) else {}, policy == "Orphan"


def _number(query: Mapping[str, str], key: str) -> int:
    text = query.get(key) or "0"
    if not text.isdigit():
        raise bad_request(f'{key}: Invalid value: "{text}": a number was expected')
    return int(text)
