"""What the sandbox's API server holds custom resources to: exclave's own two, and Linkerd's ExternalWorkload. Pure.

Ours are the installed definitions' schemas, with their rules in CEL as functions here; Linkerd's is that of
`external_workload`. A field that a schema does not name is refused, so that a misspelt one is met in a test and not in
a cluster.
"""

from collections.abc import Iterator

from exclave.api.definitions.schemas import LONGEST_FACT_NAME, MEMBER, WORKLOAD_GROUP
from exclave.api.group import MOST_GROUP_NAME
from exclave_sandbox.apiserver.refusal import Cause, Object
from exclave_sandbox.linkerd.external_workload import V1BETA1

__all__ = ["EXTERNAL_WORKLOAD", "MEMBER", "WORKLOAD_GROUP", "check_group", "check_member", "check_member_change"]

EXTERNAL_WORKLOAD = V1BETA1

IMMUTABLE_OF_MEMBER = ("nonce", "machineHash", "deliveryKey")


def check_group(group: Object) -> Iterator[Cause]:
    """A group's name is one label and short, because members' and machine accounts' names are built from it."""
    name = group["metadata"]["name"]
    if "." in name or len(name) > MOST_GROUP_NAME:
        wanted = f"a group's name is one DNS label of at most {MOST_GROUP_NAME} characters"
        yield Cause("metadata.name", f'Invalid value: "{name}": {wanted}')


def check_member(member: Object) -> Iterator[Cause]:
    """A schema limits the values of a map, and its keys need a rule."""
    if any(len(name) > LONGEST_FACT_NAME for name in member["spec"].get("facts") or {}):
        message = f'Invalid value: "object": a key has at most {LONGEST_FACT_NAME} characters'
        yield Cause("spec.facts", message)


def check_member_change(old: Object, new: Object) -> Iterator[Cause]:
    """What a machine said of itself when it joined stays said."""
    for name in IMMUTABLE_OF_MEMBER:
        if old["spec"].get(name) != new["spec"].get(name):
            yield Cause(f"spec.{name}", "Invalid value: field is immutable")
