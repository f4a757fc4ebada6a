"""Discovery: /api, /apis, /version and the health paths. Pure."""

from exclave_sandbox.apiserver.kinds.kinds import KINDS, Kind
from exclave_sandbox.apiserver.messages import Object, Refusal, Reply

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
