"""Schemas of our two kinds: what the code writes passes, what could fill a cluster does not."""

from typing import Any

import pytest

from exclave.api.definitions.schemas import LONGEST_CSR, MEMBER, WORKLOAD_GROUP
from exclave.api.group import parse_group, render_group
from exclave.api.member import member_object
from exclave_sandbox.apiserver.kinds.schema import check_schema, unknown_fields
from exclave_sandbox.stage.mesh import group_spec


def mistakes(found: Any, schema: Any) -> list[str]:
    return [str(cause) for cause in check_schema(found, schema, "")] + list(unknown_fields(found, schema, ""))


def member(**spec: Any) -> dict[str, Any]:
    made = member_object(
        "shop", "web-k7q2x-1", nonce="n", machine_hash="0123456789abcdef", delivery_key="k", csr="c",
        addresses=["10.77.0.20"], facts={"kernel": "6.1"},
    )  # fmt: skip
    return {"spec": {**made["spec"], **spec}}


def test_what_a_machine_writes_passes() -> None:
    loaded = {"anchors": "a", "issuer": "b", "settings": "c", "proxy": "d", "agent": "e"}
    assert mistakes(member(serving=True, dataPath="outbound-open", loaded=loaded), MEMBER) == []


def test_a_group_with_every_default_written_out_passes() -> None:
    spec = render_group(parse_group("web", group_spec("24h")))
    assert mistakes({"spec": {key: value for key, value in spec.items() if value is not None}}, WORKLOAD_GROUP) == []


TOO_MUCH = {
    "a CSR that fills etcd": {"csr": "x" * (LONGEST_CSR + 1)},
    "a fact that fills etcd": {"facts": {"kernel": "x" * 300}},
    "two addresses": {"addresses": ["10.77.0.20", "10.77.0.21"]},
    "an address that is a book": {"addresses": ["x" * 65]},
    "a data path of its own": {"dataPath": "open"},
    "a hash of another form": {"machineHash": "0123"},
    "a field that nobody knows": {"labels": {"app": "web"}},
}


def test_the_names_of_facts_are_limited_by_a_rule() -> None:
    facts = MEMBER["properties"]["spec"]["properties"]["facts"]
    (rule,) = facts["x-kubernetes-validations"]
    assert rule == {"rule": "self.all(key, key.size() <= 64)", "message": "a key has at most 64 characters"}
    assert facts["maxProperties"] * (64 + facts["additionalProperties"]["maxLength"]) < 2**15


@pytest.mark.parametrize("spec", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_a_machine_may_not_write_is_refused(spec: dict[str, Any]) -> None:
    assert mistakes(member(**spec), MEMBER)
