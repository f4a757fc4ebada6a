"""The kinds that are served, and how an object of each may come to be and change. Pure.

With a status subresource the main path never changes `status` and the status path changes nothing else. `generation`
counts changes of a custom object outside metadata and status. A patch is a JSON merge patch (RFC 7386).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from exclave.api import requests as api
from exclave.api.definitions.manifests import schema_of
from exclave_sandbox.apiserver.kinds import rules, schema
from exclave_sandbox.apiserver.kinds.schema import NameRule, Schema
from exclave_sandbox.apiserver.messages import Cause, Object, bad_request, invalid
from exclave_sandbox.linkerd.external_workload import external_workload_schema


@dataclass(frozen=True, eq=False)
class Kind:
    """One served kind. `schema`: of a custom resource. `unconditional`: a PUT may leave out resourceVersion."""

    resource: api.Resource
    has_status: bool = False
    name_rule: NameRule = "subdomain"
    schema: Schema | None = None
    unconditional: bool = True
    prepare: Callable[[Object], Object] = lambda object_: object_
    check: Callable[[Object], Iterable[Cause]] = lambda _: ()
    check_change: Callable[[Object, Object], Iterable[Cause]] = lambda _old, _new: ()

    @property
    def key(self) -> str:
        """The resource as error texts name it: "members.exclave.dev", "secrets"."""
        return f"{self.resource.plural}.{self.resource.group}".rstrip(".")

    @property
    def kind_key(self) -> str:
        """The kind as error texts name it: "Member.exclave.dev"."""
        return f"{self.resource.kind}.{self.resource.group}".rstrip(".")

    @property
    def subresources(self) -> tuple[str, ...]:
        """Paths below an object."""
        found = ("status",) if self.has_status else ()
        return (*found, "token") if self.resource is api.SERVICE_ACCOUNTS else found


MEMBERS = Kind(
    api.MEMBERS, True, schema=schema_of(api.MEMBERS), unconditional=False,
    check=rules.check_member, check_change=rules.check_member_change,
)  # fmt: skip
WORKLOAD_GROUPS = Kind(
    api.WORKLOAD_GROUPS, True, schema=schema_of(api.WORKLOAD_GROUPS), unconditional=False, check=rules.check_group
)
EXTERNAL_WORKLOADS = Kind(api.EXTERNAL_WORKLOADS, True, schema=external_workload_schema(), unconditional=False)
LEASES = Kind(api.LEASES, unconditional=False, check=rules.check_lease)
SERVICE_ACCOUNTS = Kind(api.SERVICE_ACCOUNTS, unconditional=False)
CONFIG_MAPS = Kind(api.CONFIG_MAPS, check=rules.check_config_map, check_change=rules.check_content_change)
SECRETS = Kind(
    api.SECRETS, prepare=rules.prepare_secret, check=rules.check_secret, check_change=rules.check_secret_change
)
NAMESPACES = Kind(api.NAMESPACES, name_rule="label", prepare=rules.prepare_namespace)
EVENTS = Kind(api.EVENTS, check=rules.check_event)
PODS = Kind(api.PODS, True)
SERVICES = Kind(api.SERVICES, True, name_rule="label")
ENDPOINT_SLICES = Kind(api.ENDPOINT_SLICES, check=rules.check_endpoint_slice)
_RBAC = partial(Kind, name_rule="path")
ROLES, CLUSTER_ROLES = (_RBAC(resource, check=rules.check_role) for resource in (api.ROLES, api.CLUSTER_ROLES))
ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS = (
    _RBAC(resource, check=check, prepare=rules.prepare_binding, check_change=rules.check_binding_change)
    for resource, check in (
        (api.ROLE_BINDINGS, rules.check_binding),
        (api.CLUSTER_ROLE_BINDINGS, rules.check_cluster_binding),
    )
)
_POLICIES, _POLICY_BINDINGS = (
    Kind(resource, name_rule="path")
    for resource in (api.VALIDATING_ADMISSION_POLICIES, api.VALIDATING_ADMISSION_POLICY_BINDINGS)
)

KINDS = (
    MEMBERS, WORKLOAD_GROUPS, EXTERNAL_WORKLOADS, LEASES, SERVICE_ACCOUNTS, CONFIG_MAPS, SECRETS, NAMESPACES, EVENTS,
    PODS, SERVICES, ENDPOINT_SLICES, ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS,
    _POLICIES, _POLICY_BINDINGS,
)  # fmt: skip
BY_PATH = {(kind.resource.group, kind.resource.version, kind.resource.plural): kind for kind in KINDS}
"""Kinds by group, version and plural, as a path names them."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, all else replaces. Neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def check_body(kind: Kind, body: Any) -> Object:
    """A request's body as an object of this kind. Raises Refusal (400) if it is something else."""
    if not isinstance(body, dict) or not isinstance(body.get("metadata", {}), dict):
        raise bad_request(f"the body is no {kind.resource.kind}: a JSON object with metadata was expected")
    for key, wanted in (("kind", kind.resource.kind), ("apiVersion", kind.resource.api_version)):
        found = body.get(key)
        if not found and kind.schema is not None:
            raise bad_request(f"Object '{key[0].upper()}{key[1:]}' is missing in the body")
        if found and found != wanted:
            raise bad_request(f"the {key} in the body ({found}) does not match that of the URL ({wanted})")
    shape, shape_of_metadata = schema.SHAPES.get(kind.resource.kind, {"type": "object"}), schema.SHAPES["metadata"]
    causes = [*schema.check_schema(body, shape, "")]
    causes += schema.check_schema(body.get("metadata", {}), shape_of_metadata, "metadata")
    if causes:
        named = f'{kind.resource.kind} in version "{kind.resource.version}"'
        raise bad_request(f"{named} cannot be handled as a {kind.resource.kind}: {causes[0]}")
    return body


def new_object(kind: Kind, body: Object) -> Object:
    """The object that a creation makes, without what the store adds. Raises Refusal."""
    found = {**_typed(kind, body), "metadata": schema.fresh_metadata(body["metadata"])}
    if kind.has_status:
        found.pop("status", None)
    found = _normal(kind, found)
    _check(kind, found, None)
    return found


def changed_object(kind: Kind, old: Object, new: Object, subresource: str | None) -> Object:
    """The object that a replacement through the main path or through /status makes. Raises Refusal."""
    if subresource == "status":
        found = {key: value for key, value in old.items() if key != "status"}
        if new.get("status"):
            found["status"] = new["status"]
    else:
        found = {**_typed(kind, new), "metadata": schema.updated_metadata(old["metadata"], new.get("metadata", {}))}
        if kind.has_status:
            found.pop("status", None)
            if "status" in old:
                found["status"] = old["status"]
    found = _normal(kind, found)
    if kind.schema is not None and _counted(found) != _counted(old):
        found["metadata"] = {**found["metadata"], "generation": old["metadata"]["generation"] + 1}
    _check(kind, found, old)
    return found


def _typed(kind: Kind, body: Object) -> Object:
    resource = kind.resource
    return {**body, "apiVersion": resource.api_version, "kind": resource.kind}


def _normal(kind: Kind, found: Object) -> Object:
    if kind.schema is None:
        return kind.prepare(found)
    unknown = [
        place
        for part in kind.schema["properties"]
        for place in schema.unknown_fields(found.get(part), kind.schema["properties"][part], part)
    ]
    unknown += [key for key in found if key not in ("apiVersion", "kind", "metadata", *kind.schema["properties"])]
    if unknown:
        listed = ", ".join(f'unknown field "{place}"' for place in unknown)
        raise bad_request(f"strict decoding error: {listed}")
    full = schema.with_defaults(found, kind.schema)
    return {key: value if key == "metadata" else _without_null(value) for key, value in full.items()}


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _counted(object_: Object) -> Object:
    return {key: value for key, value in object_.items() if key not in ("metadata", "status")}


def _check(kind: Kind, found: Object, old: Object | None) -> None:
    causes = list(schema.check_metadata(found["metadata"], kind.name_rule))
    if kind.schema is not None:
        whole = {key: value for key, value in found.items() if key in kind.schema["properties"]}
        causes += schema.check_schema(whole, kind.schema, "")
    if not causes:
        causes += kind.check(found)
    if old is not None and not causes:
        causes += schema.check_metadata_change(old["metadata"], found["metadata"])
        causes += kind.check_change(old, found)
    if causes:
        raise invalid(kind.kind_key, found["metadata"]["name"], causes)
