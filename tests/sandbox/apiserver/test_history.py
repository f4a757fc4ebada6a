"""The history of changes: the changes after a revision, and revisions that have expired."""

import json

import pytest

from exclave_sandbox.apiserver.history import History, ObjectChange, Scope
from exclave_sandbox.apiserver.refusal import Refusal


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
def test_what_followed_a_revision(scope: Scope, since: int, expected: list[int]) -> None:
    feed = filled(10, change(1), change(2, "h"), change(3, name="b"), change(4, kind="secrets"))
    assert [one.revision for one in feed.since(scope, since)] == expected
    heard: list[int] = []
    fresh = History(10)
    fresh.follow(scope, lambda one: heard.append(one.revision))
    for one in (change(1), change(2, "h"), change(3, name="b"), change(4, kind="secrets")):
        fresh.publish(one)
    assert [revision for revision in heard if revision > since] == expected


def test_a_revision_that_the_window_no_longer_holds_has_expired() -> None:
    feed = filled(2, *(change(revision) for revision in range(1, 6)), change(6, kind="secrets"))
    assert [one.revision for one in feed.since(Scope("configmaps"), 3)] == [4, 5]
    with pytest.raises(Refusal) as refused:
        feed.since(Scope("configmaps"), 2)
    assert (refused.value.code, refused.value.reason) == (410, "Expired")
    assert refused.value.message == "too old resource version: 2 (3)"
    assert [one.revision for one in feed.since(Scope("secrets"), 0)] == [6]


def test_a_revision_from_the_future_is_answered_with_a_retry() -> None:
    with pytest.raises(Refusal) as refused:
        filled(2, change(1)).since(Scope("configmaps"), 9)
    assert (refused.value.code, refused.value.reason) == (504, "Timeout")
    assert refused.value.message == "Too large resource version: 9, current: 1"


def test_who_stops_following_hears_no_more() -> None:
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
