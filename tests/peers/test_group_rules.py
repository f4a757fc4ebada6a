"""Which specs of groups API servers refuse, by the schema and its CEL rules."""

import copy
import json
import time
from typing import Any

import httpx
import pytest

from api.group_specs import SPECS, Refuser
from exclave.api.definitions.manifests import custom_resource_definitions
from exclave.api.requests import CUSTOM_RESOURCE_DEFINITIONS, path_of
from peers.conftest import Server
from peers.kubernetes import AVAILABLE

from .test_contract import MERGE, group, made, told

LEAST = {"networks": ["10.77.0.0/24"]}


def body(api: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": api, "kind": "WorkloadGroup", "metadata": {"name": name}, "spec": {**LEAST, **spec}}


@pytest.mark.parametrize(("spec", "refuser"), SPECS.values(), ids=SPECS)
def test_a_spec_is_refused_that_the_controller_would_not_accept(
    admin: httpx.Client, namespace: str, spec: dict[str, Any], refuser: Refuser
) -> None:
    path = group("exclave.dev/v1alpha1", namespace, "workloadgroups")
    answer = admin.post(path, json=body("exclave.dev/v1alpha1", "web", spec))
    if refuser == "schema":
        assert told(answer) == (422, "Invalid"), answer.text
    else:
        made(answer)


OLD = "old.exclave.dev/v1alpha1"
BAD = {"ports": [{"name": "linkerd-proxy", "port": 4143}], "probes": [{"port": 80, "every": "0s"}], "forgetAfter": "0s"}


def definition(*, has_rules: bool) -> dict[str, Any]:
    """The definition of groups in another API group; without rules as an earlier version had it."""
    (found,) = (one for one in custom_resource_definitions() if one["spec"]["names"]["kind"] == "WorkloadGroup")
    found = copy.deepcopy(found)
    found["metadata"]["name"] = "workloadgroups.old.exclave.dev"
    found["spec"]["group"] = "old.exclave.dev"
    found["spec"]["names"] = {**found["spec"]["names"], "shortNames": [], "categories": []}
    if not has_rules:
        spec = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        spec.clear()
        spec.update({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    return found


@pytest.mark.parametrize("server", AVAILABLE, indirect=True)
def test_a_group_that_is_older_than_the_rules_can_be_reported_on_and_released(
    admin: httpx.Client, server: Server, namespace: str
) -> None:
    """The controller writes its finalizer, and a change of its spec must be right."""
    crds = path_of(CUSTOM_RESOURCE_DEFINITIONS, None)
    name = "workloadgroups.old.exclave.dev"
    made(admin.post(crds, json=definition(has_rules=False)))
    try:
        path = group(OLD, namespace, "workloadgroups")
        deadline = time.monotonic() + 60
        while (answer := admin.post(path, json=body(OLD, "web", BAD))).status_code == 404:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        made(answer)
        spec = definition(has_rules=True)["spec"]
        made(admin.patch(f"{crds}/{name}", content=json.dumps({"spec": spec}), headers=MERGE))
        while admin.post(path, json=body(OLD, "other", BAD)).status_code != 422:
            assert time.monotonic() < deadline
            admin.delete(f"{path}/other")
            time.sleep(0.1)
        condition = {"type": "Accepted", "status": "False", "reason": "Invalid", "message": "it is not"}
        status = json.dumps({"status": {"conditions": [condition]}})
        for finalizers in (["exclave.dev/group"], []):
            held = json.dumps({"metadata": {"finalizers": finalizers}})
            made(admin.patch(f"{path}/web", content=held, headers=MERGE))
        answer = admin.patch(f"{path}/web/status", content=status, headers=MERGE)
        # 1.30 applies the rules to the whole object when its status is written.
        assert answer.status_code == (422 if server.name == "1.30" else 200), answer.text
        worse = json.dumps({"spec": {"probes": [{"port": 80, "every": "1ms"}]}})
        assert told(admin.patch(f"{path}/web", content=worse, headers=MERGE)) == (422, "Invalid")
        better = json.dumps({"spec": {"probes": None, "ports": None, "forgetAfter": None}})
        made(admin.patch(f"{path}/web", content=better, headers=MERGE))
    finally:
        admin.delete(f"{crds}/{name}")
