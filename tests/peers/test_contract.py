"""What exclave relies on in an API server, asked of each that it can be run against.

Only what a real kube-apiserver does as well stands here; where it is slower (a token dies within ten seconds), the test
waits for it. Texts are asserted where our own messages repeat them to a person.
"""

import base64
import email.utils
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from peers.conftest import Server
from support.figures import add_figure

MERGE = {"Content-Type": "application/merge-patch+json"}
AUDIENCE = "https://kubernetes.default.svc"
MEMBER_SPEC = {"nonce": "n", "machineHash": "0123456789abcdef", "deliveryKey": "k", "serving": False}


def core(namespace: str, plural: str, *names: str) -> str:
    return "/".join(("/api/v1/namespaces", namespace, plural, *names))


def group(api: str, namespace: str, plural: str, *names: str) -> str:
    return "/".join((f"/apis/{api}/namespaces", namespace, plural, *names))


def members(namespace: str, *names: str) -> str:
    return group("exclave.dev/v1alpha1", namespace, "members", *names)


def leases(namespace: str, *names: str) -> str:
    return group("coordination.k8s.io/v1", namespace, "leases", *names)


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"a": "1"}}


def member(name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "exclave.dev/v1alpha1",
        "kind": "Member",
        "metadata": {"name": name, **metadata},
        "spec": MEMBER_SPEC,
    }


def lease(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}


def made(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def told(answer: httpx.Response) -> tuple[int, str]:
    status = answer.json()
    assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", answer.status_code)
    return answer.status_code, status["reason"]


@contextmanager
def watching(client: httpx.Client, path: str, **query: str) -> Iterator[Iterator[dict[str, Any]]]:
    with client.stream("GET", path, params={"watch": "1", "timeoutSeconds": "20", **query}) as answer:
        assert answer.status_code == 200
        yield (json.loads(line) for line in answer.iter_lines())


class TestObjects:
    def test_a_created_object_bears_name_uid_version_and_time(self, admin: httpx.Client, namespace: str) -> None:
        metadata = made(admin.post(members(namespace), json=member("web-abcde-1")))["metadata"]
        assert (metadata["name"], metadata["namespace"], metadata["generation"]) == ("web-abcde-1", namespace, 1)
        assert metadata["uid"]
        assert int(metadata["resourceVersion"]) > 0
        assert metadata["creationTimestamp"].endswith("Z")

    def test_a_name_is_given_once(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(members(namespace), json=member("web-abcde-1")))
        answer = admin.post(members(namespace), json=member("web-abcde-1"))
        assert told(answer) == (409, "AlreadyExists")
        assert answer.json()["message"] == 'members.exclave.dev "web-abcde-1" already exists'

    def test_what_is_absent_is_not_found(self, admin: httpx.Client, namespace: str) -> None:
        for answer in (
            admin.get(members(namespace, "web-abcde-1")),
            admin.patch(members(namespace, "web-abcde-1"), content="{}", headers=MERGE),
            admin.delete(members(namespace, "web-abcde-1")),
        ):
            assert told(answer) == (404, "NotFound")
            assert answer.json()["message"] == 'members.exclave.dev "web-abcde-1" not found'

    def test_nothing_is_created_in_a_namespace_that_is_absent(self, admin: httpx.Client) -> None:
        answer = admin.post(core("contract-absent", "configmaps"), json=config_map("c"))
        assert told(answer) == (404, "NotFound")
        assert answer.json()["message"] == 'namespaces "contract-absent" not found'

    def test_a_merge_patch_sets_removes_and_replaces_lists(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(core(namespace, "configmaps"), json=config_map("c", labels={"x": "1"})))
        patch = {"data": {"a": None, "b": "2"}, "metadata": {"labels": {"y": "2"}}}
        found = made(admin.patch(core(namespace, "configmaps", "c"), content=json.dumps(patch), headers=MERGE))
        assert found["data"] == {"b": "2"}
        assert found["metadata"]["labels"] == {"x": "1", "y": "2"}

    def test_a_patch_that_changes_nothing_makes_no_new_version(self, admin: httpx.Client, namespace: str) -> None:
        first = made(admin.post(core(namespace, "configmaps"), json=config_map("c")))
        again = made(admin.patch(core(namespace, "configmaps", "c"), content='{"data":{"a":"1"}}', headers=MERGE))
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    def test_a_write_of_an_older_version_conflicts(self, admin: httpx.Client, namespace: str) -> None:
        old = made(admin.post(core(namespace, "configmaps"), json=config_map("c")))
        made(admin.patch(core(namespace, "configmaps", "c"), content='{"data":{"a":"2"}}', headers=MERGE))
        stale = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {"a": "3"}}
        for answer in (
            admin.put(core(namespace, "configmaps", "c"), json={**old, "data": {"a": "3"}}),
            admin.patch(core(namespace, "configmaps", "c"), content=json.dumps(stale), headers=MERGE),
        ):
            assert told(answer) == (409, "Conflict")
            assert "the object has been modified" in answer.json()["message"]

    def test_a_generated_name_is_drawn(self, admin: httpx.Client, namespace: str) -> None:
        body = config_map("")
        body["metadata"] = {"generateName": "drawn-"}
        names = {made(admin.post(core(namespace, "configmaps"), json=body))["metadata"]["name"] for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith("drawn-") for name in names)

    def test_labels_and_names_select(self, admin: httpx.Client, namespace: str) -> None:
        for name, label in (("a", "x"), ("b", "y")):
            made(admin.post(core(namespace, "configmaps"), json=config_map(f"c-{name}", labels={"l": label})))

        def names(**query: str) -> list[str]:
            found = made(admin.get(core(namespace, "configmaps"), params=query))["items"]
            return [one["metadata"]["name"] for one in found if one["metadata"]["name"].startswith("c-")]

        assert names() == ["c-a", "c-b"]
        assert names(labelSelector="l=x") == ["c-a"]
        assert names(labelSelector="l notin (x)") == ["c-b"]
        assert names(fieldSelector="metadata.name=c-b") == ["c-b"]

    def test_every_answer_tells_the_servers_time(self, admin: httpx.Client) -> None:
        stated = email.utils.parsedate_to_datetime(admin.get("/version").headers["date"])
        assert abs(stated.timestamp() - time.time()) < 300


class TestRules:
    def test_status_and_the_rest_are_written_apart(self, admin: httpx.Client, namespace: str) -> None:
        body = {**member("web-abcde-1"), "status": {"settings": "x"}}
        assert "status" not in made(admin.post(members(namespace), json=body))
        both = {"spec": {"serving": True}, "status": {"settings": "y"}, "metadata": {"labels": {"a": "b"}}}
        path = members(namespace, "web-abcde-1")
        by_status = made(admin.patch(f"{path}/status", content=json.dumps(both), headers=MERGE))
        assert (by_status["spec"]["serving"], by_status["status"]["settings"]) == (False, "y")
        assert "labels" not in by_status["metadata"]
        assert by_status["metadata"]["generation"] == 1
        both["status"] = {"settings": "z"}
        by_main = made(admin.patch(path, content=json.dumps(both), headers=MERGE))
        assert (by_main["spec"]["serving"], by_main["status"]["settings"]) == (True, "y")
        assert by_main["metadata"]["generation"] == 2

    @pytest.mark.parametrize("name", ["nonce", "machineHash", "deliveryKey"])
    def test_what_a_machine_said_when_it_joined_stays_said(
        self, admin: httpx.Client, namespace: str, name: str
    ) -> None:
        made(admin.post(members(namespace), json=member("web-abcde-1")))
        patch = json.dumps({"spec": {name: "fedcba9876543210"}})
        answer = admin.patch(members(namespace, "web-abcde-1"), content=patch, headers=MERGE)
        assert told(answer) == (422, "Invalid")
        assert f"spec.{name}" in answer.json()["message"]
        assert "immutable" in answer.json()["message"]

    def test_a_groups_name_has_at_most_forty_characters(self, admin: httpx.Client, namespace: str) -> None:
        path = group("exclave.dev/v1alpha1", namespace, "workloadgroups")
        body = {"apiVersion": "exclave.dev/v1alpha1", "kind": "WorkloadGroup", "spec": {"networks": ["10.0.0.0/8"]}}
        made(admin.post(path, json={**body, "metadata": {"name": "a" * 40}}))
        assert told(admin.post(path, json={**body, "metadata": {"name": "a" * 41}})) == (422, "Invalid")
        assert told(admin.post(path, json={**body, "metadata": {"name": "a.b"}})) == (422, "Invalid")

    def test_finalizers_hold_an_object_and_none_are_added_to_one_that_is_going(
        self, admin: httpx.Client, namespace: str
    ) -> None:
        path = members(namespace, "web-abcde-1")
        made(admin.post(members(namespace), json=member("web-abcde-1", finalizers=["exclave.dev/member"])))
        assert "deletionTimestamp" in made(admin.delete(path))["metadata"]
        more = json.dumps({"metadata": {"finalizers": ["exclave.dev/member", "exclave.dev/more"]}})
        assert told(admin.patch(path, content=more, headers=MERGE)) == (422, "Invalid")
        made(admin.patch(path, content='{"metadata":{"finalizers":null}}', headers=MERGE))
        assert told(admin.get(path)) == (404, "NotFound")

    def test_a_deletion_for_another_uid_conflicts(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(core(namespace, "configmaps"), json=config_map("c")))
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "another"}}
        answer = admin.request("DELETE", core(namespace, "configmaps", "c"), json=options)
        assert told(answer) == (409, "Conflict")

    def test_a_lease_is_made_empty_and_renewed_with_microseconds(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(leases(namespace), json=lease("web-abcde-1")))
        renewal = {"spec": {"holderIdentity": "boot.nonce", "renewTime": "2026-01-02T03:04:05.000006Z"}}
        path = leases(namespace, "web-abcde-1")
        found = made(admin.patch(path, content=json.dumps(renewal), headers=MERGE))
        assert found["spec"] == renewal["spec"]
        renewal["spec"]["renewTime"] = "2026-01-02T03:04:05Z"
        assert told(admin.patch(path, content=json.dumps(renewal), headers=MERGE)) == (422, "Invalid")
        assert told(admin.post(leases(namespace), json=lease("other", **renewal["spec"])))[0] == 400


class TestWatches:
    def test_a_watch_from_a_list_misses_nothing(self, admin: httpx.Client, namespace: str) -> None:
        path = core(namespace, "configmaps")
        version = made(admin.get(path))["metadata"]["resourceVersion"]
        made(admin.post(path, json=config_map("c")))
        with watching(admin, path, resourceVersion=version, fieldSelector="metadata.name=c") as events:
            heard = [next(events)]
            made(admin.patch(f"{path}/c", content='{"data":{"a":"2"}}', headers=MERGE))
            made(admin.delete(f"{path}/c"))
            heard += [next(events), next(events)]
        assert [event["type"] for event in heard] == ["ADDED", "MODIFIED", "DELETED"]
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in heard]
        assert versions == sorted(set(versions))
        assert heard[2]["object"]["data"] == {"a": "2"}

    def test_a_watch_without_a_version_begins_with_what_there_is(self, admin: httpx.Client, namespace: str) -> None:
        made(admin.post(members(namespace), json=member("web-abcde-1")))
        first: dict[str, Any] = {"type": "ERROR"}
        while first["type"] == "ERROR":  # a cache that lags behind says so, and is asked again
            with watching(admin, members(namespace)) as events:
                first = next(events)
        assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "web-abcde-1")

    def test_a_watch_of_one_name_hears_of_no_other(self, admin: httpx.Client, namespace: str) -> None:
        one = made(admin.post(members(namespace), json=member("web-abcde-1")))["metadata"]
        query = {"fieldSelector": "metadata.name=web-abcde-1", "resourceVersion": one["resourceVersion"]}
        with watching(admin, members(namespace), **query) as events:
            made(admin.post(members(namespace), json=member("web-abcde-2")))
            made(admin.delete(members(namespace, "web-abcde-1")))
            event = next(events)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "web-abcde-1")

    def test_a_watch_ends_after_its_time(self, admin: httpx.Client, namespace: str) -> None:
        version = made(admin.get(members(namespace)))["metadata"]["resourceVersion"]
        with watching(admin, members(namespace), timeoutSeconds="1", resourceVersion=version) as events:
            assert list(events) == []

    def test_a_watch_from_too_old_a_version_is_told_that_it_has_expired(
        self, admin: httpx.Client, namespace: str
    ) -> None:
        with watching(admin, members(namespace), resourceVersion="1") as events:
            event = next(events)
        assert (event["type"], event["object"]["kind"], event["object"]["code"]) == ("ERROR", "Status", 410)
        assert event["object"]["reason"] == "Expired"

    def test_a_version_from_the_future_is_told_to_try_again(self, admin: httpx.Client, namespace: str) -> None:
        future = str(10**12)
        answer = admin.get(core(namespace, "configmaps"), params={"resourceVersion": future})
        assert told(answer) == (504, "Timeout")
        assert f"Too large resource version: {future}" in answer.json()["message"]
        query = {"resourceVersion": future, "timeoutSeconds": "3"}
        with watching(admin, core(namespace, "configmaps"), **query) as events:
            heard = list(events)
        # Some say so, and some wait for that version until the watch's time is over; none tells of any object.
        assert [event["type"] for event in heard] in ([], ["ERROR"])
        assert all(f"Too large resource version: {future}" in event["object"]["message"] for event in heard)

    def test_a_bookmark_comes_before_the_end(self, admin: httpx.Client, namespace: str) -> None:
        version = made(admin.get(members(namespace)))["metadata"]["resourceVersion"]
        query = {"timeoutSeconds": "4", "resourceVersion": version, "allowWatchBookmarks": "true"}
        with watching(admin, members(namespace), fieldSelector="metadata.name=web-abcde-1", **query) as events:
            newer = made(admin.post(members(namespace), json=member("web-abcde-2")))["metadata"]["resourceVersion"]
            heard = list(events)
        assert {event["type"] for event in heard} == {"BOOKMARK"}
        assert int(heard[-1]["object"]["metadata"]["resourceVersion"]) >= int(newer)


class TestAccounts:
    def account(self, admin: httpx.Client, namespace: str, name: str) -> None:
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        made(admin.post(core(namespace, "serviceaccounts"), json=body))

    def token(self, admin: httpx.Client, namespace: str, name: str, **spec: Any) -> str:
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [AUDIENCE], "expirationSeconds": 600, **spec},
        }
        return str(made(admin.post(core(namespace, "serviceaccounts", name, "token"), json=request))["status"]["token"])

    def bind(self, admin: httpx.Client, namespace: str, name: str, subject: dict[str, str], *rules: Any) -> None:
        rbac, api = "rbac.authorization.k8s.io", "rbac.authorization.k8s.io/v1"
        role = {"apiVersion": api, "kind": "Role", "metadata": {"name": name}, "rules": list(rules)}
        made(admin.post(group(api, namespace, "roles"), json=role))
        reference = {"apiGroup": rbac, "kind": "Role", "name": name}
        binding = {"apiVersion": api, "kind": "RoleBinding", "metadata": {"name": name}, "roleRef": reference}
        made(admin.post(group(api, namespace, "rolebindings"), json={**binding, "subjects": [subject]}))

    def test_a_token_names_its_account_and_its_times(self, admin: httpx.Client, namespace: str) -> None:
        self.account(admin, namespace, "web.vm.abcde-1")
        payload = self.token(admin, namespace, "web.vm.abcde-1").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        assert claims["sub"] == f"system:serviceaccount:{namespace}:web.vm.abcde-1"
        assert claims["exp"] - claims["iat"] == 600
        assert claims["aud"] == [AUDIENCE]
        assert claims["kubernetes.io"]["serviceaccount"]["name"] == "web.vm.abcde-1"

    def test_a_token_of_less_than_ten_minutes_is_not_made(self, admin: httpx.Client, namespace: str) -> None:
        self.account(admin, namespace, "a")
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 599}}
        answer = admin.post(core(namespace, "serviceaccounts", "a", "token"), json=request)
        assert told(answer) == (422, "Invalid")
        assert "may not specify a duration less than 10 minutes" in answer.json()["message"]

    def test_an_account_may_nothing_and_is_told_who_it_is(
        self, server: Server, admin: httpx.Client, namespace: str
    ) -> None:
        self.account(admin, namespace, "web.vm.abcde-1")
        with server.client(self.token(admin, namespace, "web.vm.abcde-1")) as machine:
            answer = machine.patch(members(namespace, "web-abcde-1"), content="{}", headers=MERGE)
        assert told(answer) == (403, "Forbidden")
        assert answer.json()["message"] == (
            f'members.exclave.dev "web-abcde-1" is forbidden: User "system:serviceaccount:{namespace}:web.vm.abcde-1" '
            f'cannot patch resource "members" in API group "exclave.dev" in the namespace "{namespace}"'
        )

    def test_a_role_bound_to_all_accounts_of_a_namespace_holds_for_each(
        self, server: Server, admin: httpx.Client, namespace: str
    ) -> None:
        rule = {"apiGroups": ["exclave.dev"], "resources": ["members"], "verbs": ["create", "get", "watch", "patch"]}
        everyone = {
            "kind": "Group",
            "apiGroup": "rbac.authorization.k8s.io",
            "name": f"system:serviceaccounts:{namespace}",
        }
        self.bind(admin, namespace, "machines", everyone, rule)
        self.account(admin, namespace, "web.join.abcde-1")
        with server.client(self.token(admin, namespace, "web.join.abcde-1")) as machine:
            until(lambda: machine.get(members(namespace, "absent")).status_code == 404)
            made(machine.post(members(namespace), json=member("web-abcde-1")))
            path = members(namespace, "web-abcde-1")
            made(machine.patch(path, content='{"spec":{"serving":true}}', headers=MERGE))
            assert told(machine.patch(f"{path}/status", content="{}", headers=MERGE)) == (403, "Forbidden")
            assert told(machine.delete(path)) == (403, "Forbidden")
            assert told(machine.get(members(namespace))) == (403, "Forbidden")

    def test_a_rule_for_names_holds_for_these_names_and_for_watches_of_them(
        self, server: Server, admin: httpx.Client, namespace: str
    ) -> None:
        rule = {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "verbs": ["get", "watch", "create"],
            "resourceNames": ["mine"],
        }
        subject = {"kind": "ServiceAccount", "name": "a", "namespace": namespace}
        self.bind(admin, namespace, "named", subject, rule)
        self.account(admin, namespace, "a")
        path = core(namespace, "configmaps")
        with server.client(self.token(admin, namespace, "a")) as machine:
            until(lambda: machine.get(f"{path}/mine").status_code == 404)
            assert told(machine.get(f"{path}/other")) == (403, "Forbidden")
            assert told(machine.post(path, json=config_map("mine"))) == (403, "Forbidden")
            query = {"fieldSelector": "metadata.name=mine", "timeoutSeconds": "1"}
            with watching(machine, path, **query) as events:
                heard = list(events)
            # One of a cache that lags behind says so, and is asked again.
            assert all("Too large resource version" in event["object"]["message"] for event in heard)
            assert told(machine.get(path, params={"watch": "1"})) == (403, "Forbidden")

    def test_a_token_for_another_audience_is_no_token(
        self, server: Server, admin: httpx.Client, namespace: str
    ) -> None:
        self.account(admin, namespace, "a")
        with server.client(self.token(admin, namespace, "a", audiences=["elsewhere"])) as stranger:
            assert told(stranger.get(members(namespace))) == (401, "Unauthorized")

    def test_a_token_dies_with_its_account_and_is_not_revived(
        self, server: Server, admin: httpx.Client, namespace: str
    ) -> None:
        self.account(admin, namespace, "a")
        with server.client(self.token(admin, namespace, "a")) as machine:
            assert told(machine.get(members(namespace))) == (403, "Forbidden")
            made(admin.delete(core(namespace, "serviceaccounts", "a")))
            took = until(lambda: machine.get(members(namespace)).status_code == 401)
            add_figure(f"{server.name}: a token died {took:.1f} s after its account")
            self.account(admin, namespace, "a")
            assert told(machine.get(members(namespace))) == (401, "Unauthorized")

    def test_who_has_no_token_may_nothing(self, server: Server, namespace: str) -> None:
        with server.client() as nobody:
            assert nobody.get(members(namespace)).status_code in (401, 403)


def until(condition: Any) -> float:
    """Wait for what a real server does within its caches' time; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + 20, "not within 20 s"
        time.sleep(0.2)
    return time.monotonic() - began
