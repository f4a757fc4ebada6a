"""What the sandbox's API server holds custom resources to: exclave's own two, and Linkerd's ExternalWorkload. Pure.

Ours are the installed definitions' schemas, with their rules in CEL as functions here; ExternalWorkload's says what
that of Linkerd's chart says (linkerd-crds, v1beta1). A field that a schema does not name is refused, so that a
misspelt one is met in a test and not in a cluster.
"""

from collections.abc import Iterator

from exclave.admin.schemas import CONDITIONS, MEMBER, MOST_GROUP_NAME, PORT, WORKLOAD_GROUP
from exclave.kit.openapi import STRING, Schema, list_of, object_of
from exclave.sandbox.refusal import Cause, Object

__all__ = ["EXTERNAL_WORKLOAD", "MEMBER", "WORKLOAD_GROUP", "check_group", "check_member_change"]

NAME_253: Schema = {"type": "string", "minLength": 1, "maxLength": 253}

EXTERNAL_WORKLOAD = object_of(
    ("spec",),
    spec=object_of(
        ("meshTLS",),
        meshTLS=object_of(("identity", "serverName"), identity=NAME_253, serverName=NAME_253),
        ports=list_of(object_of(("port",), name=STRING, port=PORT, protocol=STRING)),
        workloadIPs=list_of(object_of(ip=STRING), maxItems=2),
    ),
    status=object_of(conditions=CONDITIONS),
)

IMMUTABLE_OF_MEMBER = ("nonce", "machineHash", "deliveryKey")


def check_group(group: Object) -> Iterator[Cause]:
    """A group's name is one label and short, because members' and machine accounts' names are built from it."""
    name = group["metadata"]["name"]
    if "." in name or len(name) > MOST_GROUP_NAME:
        wanted = f"a group's name is one DNS label of at most {MOST_GROUP_NAME} characters"
        yield Cause("metadata.name", f'Invalid value: "{name}": {wanted}')


def check_member_change(old: Object, new: Object) -> Iterator[Cause]:
    """What a machine said of itself when it joined stays said."""
    for name in IMMUTABLE_OF_MEMBER:
        if old["spec"].get(name) != new["spec"].get(name):
            yield Cause(f"spec.{name}", "Invalid value: field is immutable")
