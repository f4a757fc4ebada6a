"""More of what exclave relies on in an API server: owners, elections, other kinds, Linkerd's definition.

As in `test_contract`: both servers, the sandbox's and real ones, and only what both do.
"""

import json
import threading
from typing import Any

import httpx
import pytest

from exclave.api.definitions.manifests import admission_objects

from .test_contract import MERGE, config_map, core, group, lease, leases, made, member, members, told, until, watching

WORKLOADS = "workload.linkerd.io/v1beta1"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
NOW = "2026-01-02T03:04:05.000006Z"


def workload(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    tls = {"meshTLS": {"identity": "spiffe://cluster.local/ns/shop/sa/web", "serverName": "web"}}
    return {"apiVersion": WORKLOADS, "kind": "ExternalWorkload", "metadata": {"name": name}, "spec": {**tls, **spec}}


def owned(name: str, *owners: dict[str, Any]) -> dict[str, Any]:
    references = [
        {
            "apiVersion": owner.get("apiVersion", "v1"),
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
        for owner in owners
    ]
    return config_map(name, ownerReferences=references)


class TestOwners:
    def make_group(self, admin: httpx.Client, namespace: str, name: str) -> dict[str, Any]:
        body = {
            "apiVersion": "exclave.dev/v1alpha1",
            "kind": "WorkloadGroup",
            "metadata": {"name": name},
            "spec": {"networks": ["10.0.0.0/8"]},
        }
        return made(admin.post(group("exclave.dev/v1alpha1", namespace, "workloadgroups"), json=body))

    def drop_group(self, admin: httpx.Client, namespace: str, name: str) -> None:
        made(admin.delete(group("exclave.dev/v1alpha1", namespace, "workloadgroups", name)))

    def test_what_is_owned_goes_with_its_last_owner(self, admin: httpx.Client, namespace: str) -> None:
        first, second = (self.make_group(admin, namespace, name) for name in ("one", "two"))
        path = core(namespace, "configmaps")
        made(admin.post(path, json=owned("of-one", first)))
        made(admin.post(path, json=owned("of-both", first, second)))
        self.drop_group(admin, namespace, "one")
        until(lambda: admin.get(f"{path}/of-one").status_code == 404)
        assert admin.get(f"{path}/of-both").status_code == 200
        self.drop_group(admin, namespace, "two")
        until(lambda: admin.get(f"{path}/of-both").status_code == 404)

    def test_a_finalizer_holds_what_lost_its_owner(self, admin: httpx.Client, namespace: str) -> None:
        owner = self.make_group(admin, namespace, "web")
        path = core(namespace, "configmaps")
        body = owned("held", owner)
        body["metadata"]["finalizers"] = ["exclave.dev/ports"]
        made(admin.post(path, json=body))
        self.drop_group(admin, namespace, "web")
        until(lambda: "deletionTimestamp" in made(admin.get(f"{path}/held"))["metadata"])
        made(admin.patch(f"{path}/held", content='{"metadata":{"finalizers":null}}', headers=MERGE))
        assert told(admin.get(f"{path}/held")) == (404, "NotFound")

    def test_an_orphaning_deletion_leaves_what_was_owned(self, admin: httpx.Client, namespace: str) -> None:
        first, second = (self.make_group(admin, namespace, name) for name in ("one", "two"))
        path, owners = core(namespace, "configmaps"), group("exclave.dev/v1alpha1", namespace, "workloadgroups")
        made(admin.post(path, json=owned("of-one", first)))
        made(admin.post(path, json=owned("of-both", first, second)))
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"}
        made(admin.request("DELETE", f"{owners}/one", json=options))
        until(lambda: admin.get(f"{owners}/one").status_code == 404)
        assert "ownerReferences" not in made(admin.get(f"{path}/of-one"))["metadata"]
        left = made(admin.get(f"{path}/of-both"))["metadata"]["ownerReferences"]
        assert [owner["name"] for owner in left] == ["two"]

    def test_an_orphaning_deletion_waits_for_finalizers_as_any_other(self, admin: httpx.Client, namespace: str) -> None:
        path = members(namespace, "web-abcde-1")
        made(admin.post(members(namespace), json=member("web-abcde-1", finalizers=["exclave.dev/member"])))
        made(admin.delete(path, params={"propagationPolicy": "Orphan"}))
        until(lambda: made(admin.get(path))["metadata"]["finalizers"] == ["exclave.dev/member"])
        assert "deletionTimestamp" in made(admin.get(path))["metadata"]
        made(admin.patch(path, content='{"metadata":{"finalizers":null}}', headers=MERGE))
        assert told(admin.get(path)) == (404, "NotFound")

    def test_no_other_words_say_what_becomes_of_what_is_owned(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(members(namespace), json=member("web-abcde-1")))
        answer = admin.delete(members(namespace, "web-abcde-1"), params={"propagationPolicy": "Sideways"})
        assert told(answer) == (422, "Invalid")
        assert 'propagationPolicy: Unsupported value: "Sideways"' in answer.json()["message"]


class TestPages:
    def page(self, admin: httpx.Client, namespace: str, **query: str) -> tuple[list[str], dict[str, Any]]:
        found = made(admin.get(members(namespace), params=query))
        return [one["metadata"]["name"] for one in found["items"]], found["metadata"]

    def test_a_list_comes_in_pages_that_show_one_moment(self, admin: httpx.Client, namespace: str) -> None:
        names = [f"web-abcde-{number}" for number in range(1, 6)]
        for name in names:
            made(admin.post(members(namespace), json=member(name)))
        first, told_first = self.page(admin, namespace, limit="2")
        assert (first, told_first["remainingItemCount"]) == (names[:2], 3)
        made(admin.delete(members(namespace, names[4])))
        made(admin.post(members(namespace), json=member("web-abcde-20")))
        second, told_second = self.page(admin, namespace, limit="2", **{"continue": told_first["continue"]})
        assert (second, told_second["remainingItemCount"]) == (names[2:4], 1)
        third, told_third = self.page(admin, namespace, limit="2", **{"continue": told_second["continue"]})
        assert third == names[4:]
        assert not told_third.get("continue")  # of custom resources it is empty, of others absent
        assert len({one["resourceVersion"] for one in (told_first, told_second, told_third)}) == 1

        with watching(admin, members(namespace), resourceVersion=told_third["resourceVersion"]) as events:
            heard = [next(events), next(events)]
        assert [(event["type"], event["object"]["metadata"]["name"]) for event in heard] == [
            ("DELETED", names[4]),
            ("ADDED", "web-abcde-20"),
        ]

    def test_pages_hold_what_labels_select(self, admin: httpx.Client, namespace: str) -> None:
        for number in range(1, 7):
            made(admin.post(members(namespace), json=member(f"web-abcde-{number}", labels={"l": str(number % 2)})))
        first, metadata = self.page(admin, namespace, limit="2", labelSelector="l=1")
        assert first == ["web-abcde-1", "web-abcde-3"]
        rest, _ = self.page(admin, namespace, labelSelector="l=1", **{"continue": metadata["continue"]})
        assert rest == ["web-abcde-5"]

    def test_a_page_that_was_never_begun_is_refused(self, admin: httpx.Client, namespace: str) -> None:
        answer = admin.get(members(namespace), params={"continue": "rubbish"})
        assert told(answer) == (400, "BadRequest")
        assert "continue key is not valid" in answer.json()["message"]


class TestElections:
    def held(self, name: str, holder: str, **metadata: Any) -> dict[str, Any]:
        body = lease(name, holderIdentity=holder, leaseDurationSeconds=15, acquireTime=NOW, renewTime=NOW)
        body["spec"]["leaseTransitions"] = 0
        return {**body, "metadata": {"name": name, **metadata}}

    def test_a_lease_is_made_by_one_of_two(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(leases(namespace), json=self.held("leader", "a")))
        assert told(admin.post(leases(namespace), json=self.held("leader", "b"))) == (409, "AlreadyExists")
        assert made(admin.get(leases(namespace, "leader")))["spec"]["holderIdentity"] == "a"

    def test_a_lease_is_renewed_only_by_who_read_it_last(self, admin: httpx.Client, namespace: str) -> None:
        first = made(admin.post(leases(namespace), json=self.held("leader", "a")))["metadata"]["resourceVersion"]
        path = leases(namespace, "leader")
        second = made(admin.put(path, json=self.held("leader", "b", resourceVersion=first)))
        assert second["metadata"]["resourceVersion"] != first
        answer = admin.put(path, json=self.held("leader", "a", resourceVersion=first))
        assert told(answer) == (409, "Conflict")
        assert "the object has been modified" in answer.json()["message"]
        assert made(admin.get(path))["spec"]["holderIdentity"] == "b"

    def test_a_lease_is_not_replaced_without_its_version(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(leases(namespace), json=self.held("leader", "a")))
        answer = admin.put(leases(namespace, "leader"), json=self.held("leader", "b"))
        assert told(answer) == (422, "Invalid")
        assert "metadata.resourceVersion: Invalid value" in answer.json()["message"]

    def test_of_many_who_take_a_lease_at_once_one_gets_it(self, admin: httpx.Client, namespace: str) -> None:
        first = made(admin.post(leases(namespace), json=self.held("leader", "nobody")))["metadata"]["resourceVersion"]
        found: list[int] = []

        def take(who: int) -> None:
            body = self.held("leader", f"c{who}", resourceVersion=first)
            found.append(admin.put(leases(namespace, "leader"), json=body).status_code)

        threads = [threading.Thread(target=take, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [200, *[409] * 7]

    def test_a_lease_is_given_back_by_an_empty_holder(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(leases(namespace), json=self.held("leader", "a")))
        version = made(admin.get(leases(namespace, "leader")))["metadata"]["resourceVersion"]
        body = self.held("leader", "", resourceVersion=version)
        assert made(admin.put(leases(namespace, "leader"), json=body))["spec"].get("holderIdentity", "") == ""


class TestSubresources:
    def test_a_status_of_an_older_version_conflicts(self, admin: httpx.Client, namespace: str) -> None:
        path = members(namespace, "web-abcde-1")
        old = made(admin.post(members(namespace), json=member("web-abcde-1")))["metadata"]["resourceVersion"]
        made(admin.patch(path, content='{"spec":{"serving":true}}', headers=MERGE))
        body = {"metadata": {"resourceVersion": old}, "status": {"settings": "x"}}
        answer = admin.patch(f"{path}/status", content=json.dumps(body), headers=MERGE)
        assert told(answer) == (409, "Conflict")
        assert "status" not in made(admin.get(path))

    def test_a_status_of_this_version_is_taken(self, admin: httpx.Client, namespace: str) -> None:
        version = made(admin.post(members(namespace), json=member("web-abcde-1")))["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "status": {"settings": "x"}}
        path = members(namespace, "web-abcde-1")
        found = made(admin.patch(f"{path}/status", content=json.dumps(body), headers=MERGE))
        assert found["status"] == {"settings": "x"}


class TestPolicies:
    """Kept by both servers; what they do is asked of real ones, in `test_admission`."""

    @pytest.mark.parametrize("index", [0, 1], ids=["a policy", "a binding"])
    def test_it_is_kept_and_watched_by_name(self, admin: httpx.Client, index: int) -> None:
        body = admission_objects("contract")[index]
        name = f"contract-{index}"
        body = {**body, "metadata": {"name": name}, "spec": {**body["spec"]}}
        if index:
            body["spec"]["policyName"] = "contract-absent"
        path = f"{ADMISSION}/{'validatingadmissionpolicybindings' if index else 'validatingadmissionpolicies'}"
        admin.delete(f"{path}/{name}")
        version = made(admin.post(path, json=body))["metadata"]["resourceVersion"]
        found = made(admin.get(f"{path}/{name}"))
        assert "namespace" not in found["metadata"]
        for key, value in body["spec"].items():
            if key != "matchConstraints":  # defaults are added there
                assert found["spec"][key] == value
        query = {"fieldSelector": f"metadata.name={name}", "resourceVersion": version}
        with watching(admin, path, **query) as events:
            made(admin.patch(f"{path}/{name}", content='{"metadata":{"labels":{"a":"b"}}}', headers=MERGE))
            made(admin.delete(f"{path}/{name}"))
            heard = [next(events), next(events)]
        assert [event["type"] for event in heard] == ["MODIFIED", "DELETED"]
        assert {event["object"]["metadata"]["name"] for event in heard} == {name}


class TestExternalWorkloads:
    """What Linkerd's definition refuses and adds."""

    REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("no word on TLS", {"meshTLS": None}, "spec.meshTLS"),
        ("an identity of no length", {"meshTLS": {"identity": "", "serverName": "w"}}, "spec.meshTLS.identity"),
        ("a name for TLS that is too long", {"meshTLS": {"identity": "i", "serverName": "w" * 254}}, "serverName"),
        ("port nought", {"ports": [{"port": 0}]}, "spec.ports[0].port"),
        ("a port beyond the last", {"ports": [{"port": 65536}]}, "spec.ports[0].port"),
        ("a port without its number", {"ports": [{"name": "http"}]}, "spec.ports[0].port"),
        ("three addresses", {"workloadIPs": [{"ip": "10.0.0.1"}] * 3}, "spec.workloadIPs"),
    )

    @pytest.mark.parametrize(("spec", "place"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
    def test_it_is_refused(self, admin: httpx.Client, namespace: str, spec: dict[str, Any], place: str) -> None:
        answer = admin.post(group(WORKLOADS, namespace, "externalworkloads"), json=workload("w", spec))
        assert told(answer) == (422, "Invalid")
        assert place in answer.json()["message"]

    def test_a_port_is_tcp_unless_it_says_otherwise(self, admin: httpx.Client, namespace: str) -> None:
        body = workload("w", {"ports": [{"port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]})
        found = made(admin.post(group(WORKLOADS, namespace, "externalworkloads"), json=body))
        assert [port["protocol"] for port in found["spec"]["ports"]] == ["TCP", "UDP"]

    @pytest.mark.parametrize(
        ("condition", "place"),
        [
            ({"type": "Ready", "status": "Yes"}, "status"),
            ({"type": "Not a type", "status": "True"}, "type"),
            ({"type": "Ready", "status": "True", "reason": ""}, "reason"),
            ({"type": "Ready", "status": "True", "reason": "No reason"}, "reason"),
            ({"type": "Ready", "status": "True", "message": "m" * 32769}, "message"),
            ({"type": "Ready"}, "status"),
        ],
        ids=[
            "a word for yes",
            "a type of two words",
            "no reason",
            "a reason of two words",
            "a long message",
            "no status",
        ],
    )
    def test_a_condition_is_refused(
        self, admin: httpx.Client, namespace: str, condition: dict[str, Any], place: str
    ) -> None:
        path = group(WORKLOADS, namespace, "externalworkloads")
        made(admin.post(path, json=workload("w", {})))
        content = json.dumps({"status": {"conditions": [condition]}})
        answer = admin.patch(f"{path}/w/status", content=content, headers=MERGE)
        assert told(answer) == (422, "Invalid")
        assert f"conditions[0].{place}" in answer.json()["message"]

    def test_ports_are_emptied_by_an_empty_list(self, admin: httpx.Client, namespace: str) -> None:
        path = group(WORKLOADS, namespace, "externalworkloads")
        made(admin.post(path, json=workload("w", {"ports": [{"port": 8080}]})))
        found = made(admin.patch(f"{path}/w", content='{"spec":{"ports":[]}}', headers=MERGE))
        assert found["spec"]["ports"] == []


class TestErrors:
    def test_a_watch_from_a_version_that_has_expired_ends_with_its_one_error(
        self, admin: httpx.Client, namespace: str
    ) -> None:
        made(admin.post(members(namespace), json=member("web-abcde-1")))
        with watching(admin, members(namespace), resourceVersion="1") as events:
            heard = list(events)
        assert [event["type"] for event in heard] == ["ERROR"]
        assert heard[0]["object"]["status"] == "Failure"
        assert "too old resource version" in heard[0]["object"]["message"]
