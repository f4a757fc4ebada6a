"""The store: objects, their changes, and who follows them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.kinds.kinds import merge_patch
from exclave_sandbox.apiserver.lists import parse_selector
from exclave_sandbox.apiserver.messages import Refusal
from exclave_sandbox.apiserver.store import History, ObjectChange, Scope, Store
from support.store import config_map, external_workload, group, make_store, member


def change(revision: int, namespace: str = "g", name: str = "a", kind: str = "configmaps") -> ObjectChange:
    return ObjectChange(revision, kind, namespace, name, None, {"metadata": {"resourceVersion": str(revision)}})


def filled(window: int, *changes: ObjectChange) -> History:
    feed = History(window)
    for one in changes:
        feed.publish(one)
    return feed


@pytest.mark.parametrize(
    ("scope", "since", "expected"),
    [
        pytest.param(Scope("configmaps"), 0, [1, 2, 3], id="a kind from the beginning"),
        pytest.param(Scope("configmaps"), 2, [3], id="a kind from the middle"),
        pytest.param(Scope("configmaps"), 4, [], id="a kind from its newest change"),
        pytest.param(Scope("configmaps", "g"), 0, [1, 3], id="a namespace"),
        pytest.param(Scope("configmaps", "g", "b"), 0, [3], id="an object"),
        pytest.param(Scope("configmaps", None, "a"), 0, [1, 2], id="a name in all namespaces"),
        pytest.param(Scope("secrets"), 0, [4], id="another kind"),
    ],
)
def test_changes_after_a_revision(scope: Scope, since: int, expected: list[int]) -> None:
    feed = filled(10, change(1), change(2, "h"), change(3, name="b"), change(4, kind="secrets"))
    assert [one.revision for one in feed.since(scope, since)] == expected
    heard: list[int] = []
    fresh = History(10)
    fresh.follow(scope, lambda one: heard.append(one.revision))
    for one in (change(1), change(2, "h"), change(3, name="b"), change(4, kind="secrets")):
        fresh.publish(one)
    assert [revision for revision in heard if revision > since] == expected


def test_a_revision_before_the_window_has_expired() -> None:
    feed = filled(2, *(change(revision) for revision in range(1, 6)), change(6, kind="secrets"))
    assert [one.revision for one in feed.since(Scope("configmaps"), 3)] == [4, 5]
    with pytest.raises(Refusal) as refused:
        feed.since(Scope("configmaps"), 2)
    assert (refused.value.code, refused.value.reason) == (410, "Expired")
    assert refused.value.message == "too old resource version: 2 (3)"
    assert [one.revision for one in feed.since(Scope("secrets"), 0)] == [6]


def test_a_restart_makes_earlier_revisions_too_old_for_watches_not_for_lists() -> None:
    feed = filled(10, change(1), change(2), change(3, kind="secrets"))
    assert [one.revision for one in feed.since_for_watch(Scope("configmaps"), 1)] == [2]
    feed.restart()
    with pytest.raises(Refusal) as refused:
        feed.since_for_watch(Scope("configmaps"), 2)
    assert (refused.value.code, refused.value.message) == (410, "too old resource version: 2 (3)")
    assert [one.revision for one in feed.since(Scope("configmaps"), 1)] == [2]
    feed.publish(change(4))
    assert [one.revision for one in feed.since_for_watch(Scope("configmaps"), 3)] == [4]


def test_a_revision_from_the_future_is_answered_with_a_retry() -> None:
    with pytest.raises(Refusal) as refused:
        filled(2, change(1)).since(Scope("configmaps"), 9)
    assert (refused.value.code, refused.value.reason) == (504, "Timeout")
    assert refused.value.message == "Too large resource version: 9, current: 1"


def test_a_former_follower_is_not_called() -> None:
    feed, heard = History(2), []
    feed.follow(Scope("configmaps"), heard.append)
    feed.publish(change(1))
    feed.unfollow(Scope("configmaps"), heard.append)
    feed.publish(change(2))
    feed.unfollow(Scope("configmaps"), heard.append)
    assert [one.revision for one in heard] == [1]


def test_a_follower_can_unfollow_while_it_is_called() -> None:
    feed, heard = History(2), []

    def leave(one: ObjectChange) -> None:
        heard.append(one.revision)
        feed.unfollow(Scope("configmaps"), leave)

    feed.follow(Scope("configmaps"), leave)
    feed.follow(Scope("configmaps"), lambda one: heard.append(-one.revision))
    feed.publish(change(1))
    feed.publish(change(2))
    assert heard == [1, -1, -2]


def test_a_removal_shows_the_object_as_it_was_at_the_revision_of_its_removal() -> None:
    last = {"metadata": {"name": "a", "resourceVersion": "3"}, "data": {}}
    removed = ObjectChange(7, "configmaps", "g", "a", last, None)
    assert json.loads(removed.line) == {
        "type": "DELETED",
        "object": {"metadata": {"name": "a", "resourceVersion": "7"}, "data": {}},
    }
    assert last["metadata"]["resourceVersion"] == "3"


CONFIG_MAPS, MEMBERS, NAMESPACES = kinds.CONFIG_MAPS, kinds.MEMBERS, kinds.NAMESPACES


def patched(store: Store, kind: kinds.Kind, name: str, patch: Any, subresource: str | None = None) -> dict[str, Any]:
    return store.patch(kind, "g", name, lambda old: merge_patch(old, patch), subresource)


def test_the_server_sets_its_own_fields_of_a_new_object() -> None:
    store = make_store()
    body = member()
    body["metadata"] |= {"uid": "mine", "creationTimestamp": "1999-01-01T00:00:00Z", "generation": 9, "labels": {}}
    body["status"] = {"settings": "x"}
    made = store.create(MEMBERS, "g", body)
    assert made["metadata"] == {
        "name": "web-abcde-1",
        "namespace": "g",
        "uid": "uid-2",
        "creationTimestamp": "2023-11-14T22:13:20Z",
        "generation": 1,
        "resourceVersion": "2",
    }
    assert "status" not in made


def test_generated_names_are_drawn() -> None:
    store = make_store()
    assert store.create(CONFIG_MAPS, "g", {"metadata": {"generateName": "c-"}})["metadata"]["name"] == "c-1"
    assert store.create(CONFIG_MAPS, "g", {"metadata": {"generateName": "c-"}})["metadata"]["name"] == "c-2"


@pytest.mark.parametrize(
    ("namespace", "body", "code", "reason", "message"),
    [
        pytest.param(
            "g", config_map(), 409, "AlreadyExists", 'configmaps "c" already exists', id="a name that is taken"
        ),
        pytest.param(
            "h", config_map("d"), 404, "NotFound", 'namespaces "h" not found', id="a namespace that does not exist"
        ),
        pytest.param(
            "g",
            {"metadata": {}},
            422,
            "Invalid",
            'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required',
            id="no name",
        ),
        pytest.param(
            "g",
            config_map("d", namespace="h"),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
            id="another namespace than the path's",
        ),
        pytest.param(
            "g",
            config_map("d", resourceVersion="7"),
            500,
            "",
            "resourceVersion should not be set on objects to be created",
            id="a version before it exists",
        ),
        pytest.param(
            "",
            config_map("d"),
            400,
            "BadRequest",
            "an empty namespace may not be set during creation",
            id="no namespace",
        ),
    ],
)
def test_a_creation_is_refused(namespace: str, body: dict[str, Any], code: int, reason: str, message: str) -> None:
    store = make_store()
    store.create(CONFIG_MAPS, "g", config_map())
    with pytest.raises(Refusal) as refused:
        store.create(CONFIG_MAPS, namespace, body)
    assert (refused.value.code, refused.value.reason, refused.value.message) == (code, reason, message)


def test_a_change_bumps_the_version_and_only_a_change_of_the_spec_the_generation() -> None:
    store = make_store()
    made = store.create(MEMBERS, "g", member())
    labelled = patched(store, MEMBERS, "web-abcde-1", {"metadata": {"labels": {"a": "b"}}})
    serving = patched(store, MEMBERS, "web-abcde-1", {"spec": {"serving": True}})
    status = patched(store, MEMBERS, "web-abcde-1", {"status": {"settings": "x"}}, "status")
    assert [one["metadata"]["resourceVersion"] for one in (made, labelled, serving, status)] == ["2", "3", "4", "5"]
    assert [one["metadata"]["generation"] for one in (made, labelled, serving, status)] == [1, 1, 2, 2]


def test_a_write_that_changes_nothing_is_no_change() -> None:
    store = make_store()
    made = store.create(MEMBERS, "g", member())
    assert patched(store, MEMBERS, "web-abcde-1", {"spec": {"serving": False}, "status": {"settings": "x"}}) == made
    assert store.revision == 2


def test_the_status_path_changes_status_only_and_the_main_path_all_else() -> None:
    store = make_store()
    store.create(MEMBERS, "g", member())
    both = {"metadata": {"labels": {"a": "b"}}, "spec": {"serving": True}, "status": {"settings": "x"}}
    by_status = patched(store, MEMBERS, "web-abcde-1", both, "status")
    assert by_status["status"] == {"settings": "x"}
    assert by_status["spec"]["serving"] is False
    assert "labels" not in by_status["metadata"]
    by_main = patched(store, MEMBERS, "web-abcde-1", {"spec": {"serving": True}, "status": {"settings": "y"}})
    assert by_main["status"] == {"settings": "x"}
    assert by_main["spec"]["serving"] is True


def test_a_write_of_an_older_version_conflicts() -> None:
    store = make_store()
    old = store.create(CONFIG_MAPS, "g", config_map())
    patched(store, CONFIG_MAPS, "c", {"data": {"a": "2"}})
    for write in (
        lambda: store.replace(CONFIG_MAPS, "g", "c", {**old, "data": {"a": "3"}}),
        lambda: patched(store, CONFIG_MAPS, "c", {"metadata": {"resourceVersion": "2"}, "data": {"a": "3"}}),
    ):
        with pytest.raises(Refusal) as refused:
            write()
        assert (refused.value.code, refused.value.reason) == (409, "Conflict")
        assert refused.value.message == (
            'Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes '
            "to the latest version and try again"
        )


def test_a_replacement_of_a_custom_object_must_name_its_version_others_need_not() -> None:
    store = make_store()
    store.create(CONFIG_MAPS, "g", config_map())
    assert store.replace(CONFIG_MAPS, "g", "c", {"metadata": {}, "data": {}})["data"] == {}
    store.create(MEMBERS, "g", member())
    with pytest.raises(Refusal) as refused:
        store.replace(MEMBERS, "g", "web-abcde-1", member())
    assert refused.value.message == (
        'Member.exclave.dev "web-abcde-1" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified '
        "for an update"
    )


def test_a_name_cannot_be_changed() -> None:
    store = make_store()
    store.create(CONFIG_MAPS, "g", config_map())
    with pytest.raises(Refusal, match=r"the name of the object \(d\) does not match the name on the URL \(c\)"):
        store.replace(CONFIG_MAPS, "g", "c", config_map("d"))
    with pytest.raises(Refusal, match=r'metadata.name: Invalid value: "d": field is immutable'):
        patched(store, CONFIG_MAPS, "c", {"metadata": {"name": "d"}})


def test_a_deletion_removes_and_returns_the_object() -> None:
    store = make_store()
    made = store.create(CONFIG_MAPS, "g", config_map())
    assert store.delete(CONFIG_MAPS, "g", "c") == (made, True)
    with pytest.raises(Refusal, match='configmaps "c" not found'):
        store.get(CONFIG_MAPS, "g", "c")


def test_finalizers_hold_an_object_until_the_last_is_removed() -> None:
    store = make_store()
    body = member()
    body["metadata"]["finalizers"] = ["exclave.dev/member", "exclave.dev/other"]
    store.create(MEMBERS, "g", body)
    marked, gone = store.delete(MEMBERS, "g", "web-abcde-1")
    assert not gone
    assert marked["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:20Z"
    assert marked["metadata"]["generation"] == 2
    assert store.delete(MEMBERS, "g", "web-abcde-1") == (marked, False)
    patched(store, MEMBERS, "web-abcde-1", {"metadata": {"finalizers": ["exclave.dev/other"]}})
    with pytest.raises(Refusal) as refused:
        patched(store, MEMBERS, "web-abcde-1", {"metadata": {"finalizers": ["exclave.dev/member"]}})
    assert refused.value.message == (
        'Member.exclave.dev "web-abcde-1" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added '
        'if the object is being deleted, found new finalizers []string{"exclave.dev/member"}'
    )
    patched(store, MEMBERS, "web-abcde-1", {"metadata": {"deletionTimestamp": None}})
    patched(store, MEMBERS, "web-abcde-1", {"metadata": {"finalizers": None}})
    assert store.find(MEMBERS, "g", "web-abcde-1") is None


@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
def test_preconditions_protect_the_wrong_object_from_deletion(field: str) -> None:
    store = make_store()
    made = store.create(CONFIG_MAPS, "g", config_map())
    with pytest.raises(Refusal) as refused:
        store.delete(CONFIG_MAPS, "g", "c", {field: "99"})
    assert refused.value.code == 409
    assert store.delete(CONFIG_MAPS, "g", "c", {field: made["metadata"][field]})[1]


def test_a_namespace_is_removed_with_its_last_object_and_accepts_no_new_ones() -> None:
    store = make_store()
    store.create(CONFIG_MAPS, "g", config_map())
    body = member()
    body["metadata"]["finalizers"] = ["exclave.dev/member"]
    store.create(MEMBERS, "g", body)
    marked, gone = store.delete(NAMESPACES, "", "g")
    assert (marked["status"], gone) == ({"phase": "Terminating"}, False)
    assert store.find(CONFIG_MAPS, "g", "c") is None
    with pytest.raises(Refusal) as refused:
        store.create(CONFIG_MAPS, "g", config_map("d"))
    assert refused.value.message == (
        'configmaps "d" is forbidden: unable to create new content in namespace g because it is being terminated'
    )
    patched(store, MEMBERS, "web-abcde-1", {"metadata": {"finalizers": None}})
    assert store.find(NAMESPACES, "", "g") is None


def test_an_empty_namespace_goes_at_once() -> None:
    store = make_store()
    assert store.delete(NAMESPACES, "", "g")[1]
    assert store.find(NAMESPACES, "", "g") is None


def test_owned_objects_are_deleted_with_their_last_owner() -> None:
    store = make_store()
    owners = [store.create(kinds.WORKLOAD_GROUPS, "g", group(name)) for name in ("web", "db")]
    references = [
        {
            "apiVersion": "exclave.dev/v1alpha1",
            "kind": "WorkloadGroup",
            "name": one["metadata"]["name"],
            "uid": one["metadata"]["uid"],
        }
        for one in owners
    ]
    store.create(kinds.EXTERNAL_WORKLOADS, "g", external_workload("of-web", ownerReferences=references[:1]))
    store.create(kinds.EXTERNAL_WORKLOADS, "g", external_workload("of-both", ownerReferences=references))
    held = external_workload("held", ownerReferences=references[:1], finalizers=["exclave.dev/ports"])
    store.create(kinds.EXTERNAL_WORKLOADS, "g", held)
    store.delete(kinds.WORKLOAD_GROUPS, "g", "web")
    left = {one["metadata"]["name"]: one["metadata"] for one in store.select(kinds.EXTERNAL_WORKLOADS, "g")}
    assert set(left) == {"held", "of-both"}
    assert "deletionTimestamp" in left["held"]
    store.delete(kinds.WORKLOAD_GROUPS, "g", "db")
    assert store.find(kinds.EXTERNAL_WORKLOADS, "g", "of-both") is None


def test_a_deletion_that_orphans_removes_one_owner_and_no_object() -> None:
    store = make_store()
    owners = [store.create(kinds.WORKLOAD_GROUPS, "g", group(name)) for name in ("web", "db")]
    references = [
        {"apiVersion": "v1", "kind": "X", "name": one["metadata"]["name"], "uid": one["metadata"]["uid"]}
        for one in owners
    ]
    store.create(CONFIG_MAPS, "g", config_map("of-web", ownerReferences=references[:1]))
    store.create(CONFIG_MAPS, "g", config_map("of-both", ownerReferences=references))
    assert store.delete(kinds.WORKLOAD_GROUPS, "g", "web", orphan=True)[1]
    assert "ownerReferences" not in store.get(CONFIG_MAPS, "g", "of-web")["metadata"]
    assert store.get(CONFIG_MAPS, "g", "of-both")["metadata"]["ownerReferences"] == references[1:]
    store.delete(kinds.WORKLOAD_GROUPS, "g", "db")
    assert store.find(CONFIG_MAPS, "g", "of-both") is None
    assert store.find(CONFIG_MAPS, "g", "of-web") is not None


def test_a_selection_at_an_earlier_revision_is_that_of_the_time() -> None:
    store = make_store()
    store.create(CONFIG_MAPS, "g", config_map("changed"))
    store.create(CONFIG_MAPS, "g", config_map("removed"))
    then, before = store.revision, store.select(CONFIG_MAPS, None)
    patched(store, CONFIG_MAPS, "changed", {"data": {"a": "2"}})
    store.delete(CONFIG_MAPS, "g", "removed")
    store.create(CONFIG_MAPS, "g", config_map("added"))
    assert store.select_at(CONFIG_MAPS, None, parse_selector("", ""), then) == before
    assert store.select_at(CONFIG_MAPS, "g", parse_selector("", "metadata.name=added"), then) == []
    assert store.select_at(CONFIG_MAPS, "h", parse_selector("", ""), then) == []


def test_selection_is_by_namespace_then_name_and_by_selector() -> None:
    store = make_store()
    store.create(NAMESPACES, "", {"metadata": {"name": "a"}})
    for namespace, name, label in (("g", "z", "x"), ("g", "b", "y"), ("a", "q", "x")):
        store.create(CONFIG_MAPS, namespace, config_map(name, labels={"l": label}))

    def names(namespace: str | None, labels: str = "", fields: str = "") -> list[str]:
        found = store.select(CONFIG_MAPS, namespace, parse_selector(labels, fields))
        return [one["metadata"]["name"] for one in found]

    assert names(None) == ["q", "b", "z"]
    assert names("g") == ["b", "z"]
    assert names(None, "l=x") == ["q", "z"]
    assert names("g", "", "metadata.name=z") == ["z"]
    assert names("g", "", "metadata.name=q") == []
    assert names(None, "", "metadata.namespace=a") == ["q"]
    assert names("nowhere") == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "change", "delete", "hold", "let go"]), st.sampled_from("abc"), st.integers(0, 3)
    ),
    max_size=40,
)


@given(STEPS)
def test_a_follower_of_all_changes_has_the_stored_objects(steps: list[tuple[str, str, int]]) -> None:
    store = make_store()
    mirror: dict[str, dict[str, Any]] = {}
    revisions: list[int] = []

    def follow(change: ObjectChange) -> None:
        revisions.append(change.revision)
        assert mirror.get(change.name) == change.before or change.after is None
        if change.after is None:
            del mirror[change.name]
        else:
            mirror[change.name] = change.after

    store.history.follow(Scope(CONFIG_MAPS.key), follow)
    for step, name, value in steps:
        try:
            if step == "create":
                store.create(CONFIG_MAPS, "g", config_map(name))
            elif step == "change":
                patched(store, CONFIG_MAPS, name, {"data": {"a": str(value)}})
            elif step == "delete":
                store.delete(CONFIG_MAPS, "g", name)
            else:
                finalizers = ["exclave.dev/x"] if step == "hold" else None
                patched(store, CONFIG_MAPS, name, {"metadata": {"finalizers": finalizers}})
        except Refusal as refused:
            assert refused.code in (404, 409, 422)
    assert mirror == {one["metadata"]["name"]: one for one in store.select(CONFIG_MAPS, "g")}
    assert revisions == sorted(set(revisions))
