"""A cache with events of a watch and with late responses."""

from typing import Any

import pytest

from exclave.cluster.watch import Listed, Removed, Upserted
from exclave.controller.cache import REMEMBERED, Cache, key_of

from .snapshots import NAMESPACE, make_member, with_metadata


def test_an_event_of_a_watch_has_the_keys_that_it_is_about() -> None:
    cache = Cache()
    one, two = ({"metadata": {"name": name, "namespace": "shop"}} for name in ("one", "two"))
    assert not cache.synced
    assert cache.apply(Listed((one,))) == [("shop", "one")] and cache.synced
    assert cache.apply(Upserted(two)) == [("shop", "two")]
    assert cache.apply(Listed((two,))) == [("shop", "two"), ("shop", "one")], "what is gone concerns somebody as well"
    assert cache.apply(Removed(two)) == [("shop", "two")]
    assert cache.apply(Removed(two)) == [("shop", "two")]
    assert cache.objects == {} and cache.single() is None
    assert key_of({"metadata": {"name": "cluster-wide"}}) == ("", "cluster-wide")


def test_a_cache_does_not_remember_removals_for_ever() -> None:
    cache = Cache()
    for number in range(REMEMBERED + 1):
        cache.apply(Removed(with_metadata(make_member(), name=f"m{number}", resourceVersion=str(number + 10))))
    old = with_metadata(make_member(), name="m0", resourceVersion="5")
    assert cache.merge_response((NAMESPACE, "m0"), old) == old
    assert cache.merge_response((NAMESPACE, "m1"), with_metadata(make_member(), name="m1", resourceVersion="5")) is None


def test_an_object_without_a_name_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    cache, good = Cache(), {"metadata": {"name": "good", "namespace": "shop"}}
    nameless: list[Any] = [{"kind": "Member"}, {"kind": "Member", "metadata": None}, {"metadata": {}}, 7]
    assert cache.apply(Listed((nameless[0], good, *nameless[1:]))) == [("shop", "good")]
    for event in (Upserted(nameless[0]), Removed(nameless[0])):
        assert cache.apply(event) == []
    assert cache.objects == {("shop", "good"): good}
    assert caplog.messages[0].startswith("an object without metadata cannot be used, and is left out: KeyError")
