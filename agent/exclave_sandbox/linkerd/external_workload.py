"""The definition of Linkerd's ExternalWorkload, in both versions of chart linkerd-crds. Pure.

v1alpha1 has the name `meshTls`, one address, and no status subresource. Nothing is converted between the versions, so
each drops the other's TLS field.
"""

from typing import Any

from exclave_sandbox.openapi import STRING, Schema, list_of, object_of, one_of

PLURAL = "externalworkloads"
GROUP = "workload.linkerd.io"

_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 253}
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_CONDITION_TYPE = rf"^({_LABEL}(\.{_LABEL})*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
_TIME: Schema = {"type": "string", "format": "date-time"}

_PORT = object_of(
    ("port",),
    name=STRING,
    port={"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535},
    protocol={"type": "string", "default": "TCP"},
)
_REASON: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 1024,
    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
}
_CONDITION = object_of(
    ("status", "type"),
    type={"type": "string", "maxLength": 316, "pattern": _CONDITION_TYPE},
    status=one_of("True", "False", "Unknown"),
    reason=_REASON,
    message={"type": "string", "maxLength": 32768},
    lastProbeTime=_TIME,
    lastTransitionTime=_TIME,
)


def _version(tls: str, *, addresses: int) -> Schema:
    identity = object_of(("identity", "serverName"), identity=_NAME, serverName=_NAME)
    spec = object_of(
        (tls,), **{tls: identity}, ports=list_of(_PORT), workloadIPs=list_of(object_of(ip=STRING), maxItems=addresses)
    )
    return object_of(("spec",), spec=spec, status=object_of(conditions=list_of(_CONDITION)))


V1BETA1 = _version("meshTLS", addresses=2)
V1ALPHA1 = _version("meshTls", addresses=1)


def external_workload_definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    names = {
        "plural": PLURAL,
        "singular": "externalworkload",
        "kind": "ExternalWorkload",
        "listKind": "ExternalWorkloadList",
    }
    newest = {**_served("v1beta1", V1BETA1), "storage": True, "subresources": {"status": {}}}
    oldest = {**_served("v1alpha1", V1ALPHA1), "storage": False}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [newest, oldest]},
    }


def _served(name: str, schema: Schema) -> dict[str, Any]:
    whole = {**schema, "properties": {"metadata": {"type": "object"}, **schema["properties"]}}
    return {"name": name, "served": True, "schema": {"openAPIV3Schema": whole}}
