"""The rules of each kind, as far as this project writes it. Pure. Source: k8s.io/kubernetes pkg/apis/*/validation.

A `prepare_…` returns the object to store; a `check_…` yields mistakes, or raises Refusal (400) for an object that the
real server cannot decode. Custom resources have functions here in place of the CEL rules of their definitions.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from exclave.api.fields import FieldError
from exclave.api.group import MOST_GROUP_NAME, Port, duration_faults, port_faults
from exclave_sandbox.apiserver.messages import Cause, Object, bad_request

_MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
_SUBJECT_KINDS = {"User", "Group", "ServiceAccount"}
_EVENT_FIELDS = ("eventTime", "reportingController", "reportingInstance", "action", "reason", "type")


def required(path: str) -> Cause:
    """The mistake of a missing field."""
    return Cause(path, "Required value", "FieldValueRequired")


def prepare_secret(secret: Object) -> Object:
    """`stringData` is merged into `data`; the default type is Opaque."""
    plain = secret.get("stringData") or {}
    encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()}
    found = {key: value for key, value in secret.items() if key != "stringData"}
    if encoded:
        found["data"] = {**(secret.get("data") or {}), **encoded}
    return {**found, "type": secret.get("type") or "Opaque"}


def check_secret(secret: Object) -> Iterator[Cause]:
    """Values are base64; a TLS Secret has both its keys."""
    content = secret.get("data") or {}
    for key, value in content.items():
        try:
            base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise bad_request(f"Secret in version v1 cannot be handled as a Secret: data.{key} is not base64") from None
    if secret["type"] == "kubernetes.io/tls":
        yield from (required(f"data[{key}]") for key in ("tls.crt", "tls.key") if key not in content)


def check_secret_change(old: Object, new: Object) -> Iterator[Cause]:
    """The type of a Secret is immutable, and so is its content after `immutable: true`."""
    if old.get("type") != new.get("type"):
        yield Cause("type", f'Invalid value: "{new.get("type")}": field is immutable')
    yield from check_content_change(old, new)


def check_config_map(config_map: Object) -> Iterator[Cause]:
    """Values are strings."""
    for key, value in (config_map.get("data") or {}).items():
        if not isinstance(value, str):
            text = f"ConfigMap in version v1 cannot be handled as a ConfigMap: data.{key} is not a string"
            raise bad_request(text)
    yield from ()


def check_content_change(old: Object, new: Object) -> Iterator[Cause]:
    """`immutable: true` is final, and makes the content final."""
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        yield Cause("immutable", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")
    if old.get("data") != new.get("data"):
        yield Cause("data", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")


def check_lease(lease: Object) -> Iterator[Cause]:
    """Times have microseconds."""
    spec = lease.get("spec") or {}
    for key in ("renewTime", "acquireTime"):
        value = spec.get(key)
        if value is not None and not _MICRO_TIME.match(str(value)):
            raise bad_request(
                f'Lease in version "v1" cannot be handled as a Lease: parsing time "{value}" as '
                '"2006-01-02T15:04:05.000000Z07:00": cannot parse'
            )
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        yield Cause("spec.leaseDurationSeconds", f"Invalid value: {seconds}: must be greater than 0")


def check_role(role: Object) -> Iterator[Cause]:
    """Each rule has verbs, groups and resources (or non-resource URLs, in a ClusterRole)."""
    for index, rule in enumerate(role.get("rules") or ()):
        path = f"rules[{index}]"
        if not rule.get("verbs"):
            yield required(f"{path}.verbs")
        if rule.get("nonResourceURLs"):
            continue
        if not rule.get("apiGroups"):
            yield required(f"{path}.apiGroups")
        if not rule.get("resources"):
            yield required(f"{path}.resources")


def prepare_binding(binding: Object) -> Object:
    """The default API group of users and groups is RBAC's."""
    subjects = []
    for subject in binding.get("subjects") or ():
        own = "" if subject.get("kind") == "ServiceAccount" else "rbac.authorization.k8s.io"
        group = subject.get("apiGroup") or own
        subjects.append({**subject, "apiGroup": group} if group else subject)
    return {**binding, "subjects": subjects} if subjects else binding


def check_binding(binding: Object) -> Iterator[Cause]:
    """It names a role and its subjects."""
    role = binding.get("roleRef") or {}
    if role.get("kind") not in ("Role", "ClusterRole"):
        wanted = '"ClusterRole", "Role"'
        message = f'Unsupported value: "{role.get("kind", "")}": supported values: {wanted}'
        yield Cause("roleRef.kind", message, "FieldValueNotSupported")
    if not role.get("name"):
        yield required("roleRef.name")
    for index, subject in enumerate(binding.get("subjects") or ()):
        path = f"subjects[{index}]"
        if subject.get("kind") not in _SUBJECT_KINDS:
            yield Cause(f"{path}.kind", f'Unsupported value: "{subject.get("kind", "")}"', "FieldValueNotSupported")
        if not subject.get("name"):
            yield required(f"{path}.name")
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            yield required(f"{path}.namespace")


def check_cluster_binding(binding: Object) -> Iterator[Cause]:
    """A ClusterRoleBinding can name only a ClusterRole."""
    yield from check_binding(binding)
    if (binding.get("roleRef") or {}).get("kind") == "Role":
        message = 'Unsupported value: "Role": supported values: "ClusterRole"'
        yield Cause("roleRef.kind", message, "FieldValueNotSupported")


def check_binding_change(old: Object, new: Object) -> Iterator[Cause]:
    """The role of a binding is immutable."""
    if _role(old) != _role(new):
        yield Cause("roleRef", "Invalid value: cannot change roleRef")


def _role(binding: Object) -> tuple[Any, Any]:
    return binding["roleRef"].get("kind"), binding["roleRef"].get("name")


def check_endpoint_slice(slice_: Object) -> Iterator[Cause]:
    """The address family is required."""
    if slice_.get("addressType") not in ("IPv4", "IPv6", "FQDN"):
        yield required("addressType")


def check_event(event: Object) -> Iterator[Cause]:
    """The required fields, the length of the note, and the namespace of the object."""
    yield from (required(key) for key in _EVENT_FIELDS if not event.get(key))
    if event.get("eventTime") is not None and not _MICRO_TIME.match(str(event["eventTime"])):
        raise bad_request('Event in version "v1" cannot be handled as a Event: eventTime has no microseconds')
    if len(event.get("note") or "") > 1024:
        yield Cause("note", "Invalid value: can have at most 1024 characters")
    where = (event.get("regarding") or {}).get("namespace")
    if where and where != event["metadata"]["namespace"]:
        yield Cause("regarding.namespace", f'Invalid value: "{where}": does not match event.namespace')


def prepare_namespace(namespace: Object) -> Object:
    """A namespace is labelled with its own name and is Active until it is deleted."""
    metadata = namespace["metadata"]
    labels = {**(metadata.get("labels") or {}), "kubernetes.io/metadata.name": metadata["name"]}
    phase = "Terminating" if metadata.get("deletionTimestamp") else "Active"
    return {**namespace, "metadata": {**metadata, "labels": labels}, "status": {"phase": phase}}


LONGEST_FACT_NAME = 64
IMMUTABLE_OF_MEMBER = ("nonce", "machineHash", "deliveryKey")


def check_group(group: Object) -> Iterator[Cause]:
    """A group's name is one short DNS label, because names of members and accounts are built from it.

    No two ports have one name or number, none is the proxy's, and durations have limits.
    """
    name = group["metadata"]["name"]
    if "." in name or len(name) > MOST_GROUP_NAME:
        wanted = f"a group's name is one DNS label of at most {MOST_GROUP_NAME} characters"
        yield Cause("metadata.name", f'Invalid value: "{name}": {wanted}')
    # Without a name, a port's number is its name, which the rule does not compare.
    ports = [
        Port(one.get("name") or f"without-a-name-{one['port']}", one["port"])
        for one in group["spec"].get("ports") or ()
    ]
    for fault in port_faults(ports):
        yield Cause("spec.ports", f'Invalid value: "array": {fault}')
    try:
        faults = list(duration_faults(group["spec"]))
    except FieldError as problem:  # longer than any code can count
        faults = [str(problem)]
    for fault in faults:
        yield Cause("spec", f'Invalid value: "string": {fault}')


def check_member(member: Object) -> Iterator[Cause]:
    """A schema limits only the values of a map; the keys need this rule."""
    if any(len(name) > LONGEST_FACT_NAME for name in member["spec"].get("facts") or {}):
        message = f'Invalid value: "object": a key has at most {LONGEST_FACT_NAME} characters'
        yield Cause("spec.facts", message)


def check_member_change(old: Object, new: Object) -> Iterator[Cause]:
    """The values that a machine joined with are immutable."""
    for name in IMMUTABLE_OF_MEMBER:
        if old["spec"].get(name) != new["spec"].get(name):
            yield Cause(f"spec.{name}", "Invalid value: field is immutable")
