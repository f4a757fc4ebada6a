"""From paths and methods to objects and verbs. Pure. Source: k8s.io/apiserver pkg/endpoints/request/requestinfo.go."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from exclave_sandbox.apiserver.access import Attempt
from exclave_sandbox.apiserver.kinds.kinds import BY_PATH, NAMESPACES, Kind
from exclave_sandbox.apiserver.refusal import unknown_path, wrong_method
from exclave_sandbox.apiserver.selectors import Selector

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
        raise unknown_path()
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2 and (group, version, rest[2]) in BY_PATH:
        namespace, rest = rest[1], rest[2:]
    kind = BY_PATH.get((group, version, rest[0]))
    if kind is None or len(rest) > 3 or "" in rest or (namespace is not None and not kind.resource.namespaced):
        raise unknown_path()
    if len(rest) > 1 and kind.resource.namespaced and namespace is None:
        raise unknown_path()
    subresource = rest[2] if len(rest) == 3 else None
    if subresource is not None and subresource not in kind.subresources:
        raise unknown_path()
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
        raise wrong_method()
    return "watch" if verb == "list" and query.get("watch") in ("1", "true") else verb


def attempt_of(verb: str, target: Target, selector: Selector) -> Attempt:
    """The request to authorize. The name in `fieldSelector=metadata.name=…` counts, so that resourceNames hold."""
    resource = target.kind.resource
    named = f"{resource.plural}/{target.subresource}" if target.subresource else resource.plural
    name = target.name or (selector.name or "" if verb != "create" else "")
    namespace = target.name if target.kind is NAMESPACES else target.home
    return Attempt(verb, resource.group, named, namespace, name)
