"""The rules of custom resources: exclave's own two, and Linkerd's ExternalWorkload. Pure.

Ours have the schemas of the installed definitions, and functions here in place of their CEL rules. A field that a
schema does not name is refused, so that a misspelt one fails in a test.
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
    """A group's name is one short DNS label, because names of members and accounts are built from it."""
    name = group["metadata"]["name"]
    if "." in name or len(name) > MOST_GROUP_NAME:
        wanted = f"a group's name is one DNS label of at most {MOST_GROUP_NAME} characters"
        yield Cause("metadata.name", f'Invalid value: "{name}": {wanted}')


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
