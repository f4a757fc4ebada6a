"""Following objects: the machine gets answers and bytes, and returns actions."""

import dataclasses
import json
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.watch_run import COLLECTION, Run, bookmark, error, lines, member, page, refused
from exclave.api.requests import MEMBERS, Object
from exclave.cluster.watch import (
    FIRST_EVENT,
    GRACE,
    LONGEST,
    LONGEST_LINE,
    PATIENCE_WITH_VERSIONS,
    RECONNECT,
    SETTLED,
    SHORTEST,
    SILENCE,
    Abort,
    Action,
    Answered,
    Arrived,
    Deliver,
    Ended,
    Fetch,
    Listed,
    Lost,
    Open,
    Opened,
    Oversized,
    Pause,
    Read,
    Removed,
    Report,
    Silent,
    Upserted,
    WatchEvent,
    WatchMachine,
)
from exclave.errors import ApiRefusal

ALL, ONE = None, "web-1"
A, B = member(5, "a", "ua"), member(7, "b", "ub")
STUB = {"metadata": {"name": "web-1", "namespace": "shop"}}

# name · what is followed · what the server does · what was delivered · what is asked then · why it paused
SCENARIOS: list[tuple[str, str | None, Sequence[Report], list[WatchEvent], str, list[str]]] = [
    ("a collection is listed first", ALL, [], [], "fetch all", []),
    ("a list is delivered and watched from its version", ALL, [page(9, A, B)], [Listed((A, B))], "watch from 9", []),
    ("an empty collection is a list too", ALL, [page(9)], [Listed(())], "watch from 9", []),
    ("pages are fetched one after the other", ALL, [page(8, A, more="p2")], [], "fetch all from p2", []),
    (
        "pages are delivered as one list",
        ALL,
        [page(8, A, more="p2"), page(9, B)],
        [Listed((A, B))],
        "watch from 9",
        [],
    ),
    (
        "pages that have expired are fetched anew from the first",
        ALL,
        [page(8, A, more="p2"), refused(410), page(9, B)],
        [Listed((B,))],
        "watch from 9",
        [],
    ),
    (
        "a page that is too large is read in smaller ones",
        ALL,
        [page(8, A, more="p2"), Oversized("16 MiB")],
        [],
        "fetch 62 of all from p2",
        [],
    ),
    (
        "one object that is too large is read again after a pause",
        ALL,
        [Oversized("16 MiB"), Oversized("16 MiB"), Oversized("16 MiB"), Oversized("16 MiB")],
        [],
        "fetch 1 of all",
        ["16 MiB"],
    ),
    (
        "added, changed and deleted objects are delivered",
        ALL,
        [page(4), Opened(), lines(("ADDED", A), ("MODIFIED", B), ("DELETED", A))],
        [Listed(()), Upserted(A), Upserted(B), Removed(A)],
        "read",
        [],
    ),
    (
        "a line that is cut anywhere arrives whole",
        ALL,
        [page(4), Opened(), Arrived(b'{"type": "ADDED", "obj'), Arrived(b'ect": {"metadata": {}}}'), Arrived(b"\n")],
        [Listed(()), Upserted({"metadata": {}})],
        "read",
        [],
    ),
    (
        "half a line is nothing when the stream breaks",
        ALL,
        [page(4), Opened(), lines(("ADDED", A)), Arrived(b'{"type": "ADDED"'), Lost("cut"), Opened(), Arrived(b"\n")],
        [Listed(()), Upserted(A)],
        "read",
        ["cut"],
    ),
    (
        "a broken stream goes on from the last event",
        ALL,
        [page(4), Opened(), lines(("ADDED", A), ("MODIFIED", B)), Lost("connection reset")],
        [Listed(()), Upserted(A), Upserted(B)],
        "watch from 7",
        ["connection reset"],
    ),
    (
        "a bookmark moves the version and is not delivered",
        ALL,
        [page(4), Opened(), lines(bookmark(90)), Lost("cut")],
        [Listed(())],
        "watch from 90",
        ["cut"],
    ),
    (
        "a stream that ends early is opened again after a pause",
        ALL,
        [page(4), Opened(), Ended()],
        [Listed(())],
        "watch from 4",
        ["the API server ended the watch early"],
    ),
    (
        "a version too old, said by status, means list again at once",
        ALL,
        [page(4, A), refused(410), page(9, B)],
        [Listed((A,)), Listed((B,))],
        "watch from 9",
        [],
    ),
    (
        "a version too old, said by an event, means list again at once",
        ALL,
        [page(4), Opened(), lines(error(410, "Expired", "too old resource version: 4 (8)"))],
        [Listed(())],
        "fetch all",
        [],
    ),
    (
        "versions that are always too old are listed with pauses",
        ALL,
        [page(4), refused(410), page(5), refused(410)],
        [Listed(()), Listed(())],
        "fetch all",
        ["the version to watch from is too old"],
    ),
    (
        "a server that is behind is given time",
        ALL,
        [page(4), Opened(), lines(error(504, "Timeout", "Too large resource version: 4, current: 2"))],
        [Listed(())],
        "watch from 4",
        ["Too large resource version: 4, current: 2"],
    ),
    (
        "a server that stays behind was restored from a backup: list again",
        ALL,
        [page(4), *[Opened(), lines(error(504, "Timeout", "Too large resource version: 4"))] * PATIENCE_WITH_VERSIONS],
        [Listed(())],
        "fetch all",
        ["Too large resource version: 4"] * PATIENCE_WITH_VERSIONS,
    ),
    (
        "a server that is behind may say so with a status",
        ALL,
        [page(4), refused(504, message="Timeout: Too large resource version: 4")],
        [Listed(())],
        "watch from 4",
        ["Timeout: Too large resource version: 4"],
    ),
    (
        "any other ERROR event means list again after a pause",
        ALL,
        [page(4), Opened(), lines(error(500, "InternalError", "etcd has no leader"), ("ADDED", A))],
        [Listed(())],
        "fetch all",
        ["the API server ended the watch: etcd has no leader"],
    ),
    (
        "a line that is no event breaks the stream",
        ALL,
        [page(4), Opened(), Arrived(b"<html>\n")],
        [Listed(())],
        "watch from 4",
        ["the stream brought something that is no event"],
    ),
    (
        "JSON that is no event breaks the stream",
        ALL,
        [page(4), Opened(), Arrived(b'{"type": "ADDED", "object": []}\n[]\n')],
        [Listed(())],
        "watch from 4",
        ["the stream brought something that is no event"],
    ),
    (
        "an event that is nested without an end breaks the stream",
        ALL,
        [page(4), Opened(), Arrived(b'{"type": "ADDED", "object": ' + b"[" * 100_000 + b"\n")],
        [Listed(())],
        "watch from 4",
        ["the stream brought something that is no event"],
    ),
    (
        "a line without an end breaks the stream",
        ALL,
        [page(4), Opened(), Arrived(b"x" * (LONGEST_LINE + 1))],
        [Listed(())],
        "watch from 4",
        [f"an event of more than {LONGEST_LINE} bytes"],
    ),
    ("an overloaded server is asked again", ALL, [refused(429)], [], "fetch all", ["no"]),
    ("a server away is asked again", ALL, [Lost("refused")], [], "fetch all", ["refused"]),
    ("a stream that cannot be opened is tried again", ALL, [page(4), Lost("x")], [Listed(())], "watch from 4", ["x"]),
    ("a token not accepted ends it", ALL, [refused(401)], [], "give up", []),
    ("a right that is missing ends it", ALL, [page(4), refused(403)], [Listed(())], "give up", []),
    ("a kind that is not served ends it", ALL, [refused(404)], [], "give up", []),
    (
        "an answer without a version is no answer",
        ALL,
        [Answered({"kind": "List"})],
        [],
        "fetch all",
        ["the API server's answer has no resourceVersion"],
    ),
    ("one object is read first", ONE, [], [], "fetch /web-1", []),
    (
        "one object is delivered and watched from any version, since its own may be too old",
        ONE,
        [Answered(member(5))],
        [Upserted(member(5))],
        "watch from 0",
        [],
    ),
    (
        "one object that a stream sends first is not delivered again, and its version is not one to continue from",
        ONE,
        [Answered(member(5)), Opened(), lines(("ADDED", member(5))), Lost("cut")],
        [Upserted(member(5))],
        "fetch /web-1",
        ["cut"],
    ),
    (
        "one object's stream goes on from a bookmark",
        ONE,
        [
            *(Answered(member(5)), Opened(), lines(("ADDED", member(5)), ("MODIFIED", member(6))), Lost("cut")),
            *(Opened(), lines(bookmark(90)), Lost("cut")),
        ],
        [Upserted(member(5)), Upserted(member(6))],
        "watch from 90",
        ["cut", "cut"],
    ),
    (
        "one object's stream goes on from its last change",
        ONE,
        [Answered(member(5)), Opened(), lines(("ADDED", member(5)), ("MODIFIED", member(95))), Lost("cut")],
        [Upserted(member(5)), Upserted(member(95))],
        "watch from 95",
        ["cut"],
    ),
    (
        "one object's older state, from a server that is behind, is not delivered",
        ONE,
        [
            Answered(member(9, uid="u2")),
            Opened(),
            lines(("ADDED", member(5)), ("DELETED", member(7)), ("ADDED", member(9, uid="u2"))),
            lines(("MODIFIED", member(12, uid="u2"))),
        ],
        [Upserted(member(9, uid="u2")), Upserted(member(12, uid="u2"))],
        "read",
        [],
    ),
    (
        "one object's changes are delivered, another's are not",
        ONE,
        [Answered(member(5)), Opened(), lines(("MODIFIED", member(6)), ("MODIFIED", member(7, "web-2", "u2")))],
        [Upserted(member(5)), Upserted(member(6))],
        "read",
        [],
    ),
    (
        "one object deleted and made again is followed in the same stream",
        ONE,
        [Answered(member(5)), Opened(), lines(("DELETED", member(6)), ("ADDED", member(7, uid="u2")))],
        [Upserted(member(5)), Removed(member(6)), Upserted(member(7, uid="u2"))],
        "read",
        [],
    ),
    ("one object that is not there is Removed", ONE, [refused(404)], [Removed(STUB)], "fetch /web-1", ["no"]),
    (
        "one object that stays away is Removed once",
        ONE,
        [refused(404), refused(404), refused(404), Answered(member(9))],
        [Removed(STUB), Upserted(member(9))],
        "watch from 0",
        ["no", "no", "no"],
    ),
    (
        "one object that vanished while nobody looked is Removed as it was",
        ONE,
        [Answered(member(5)), refused(410), refused(404)],
        [Upserted(member(5)), Removed(member(5))],
        "fetch /web-1",
        ["no"],
    ),
    (
        "one object that did not change while nobody looked is not delivered again",
        ONE,
        [Answered(member(5)), Opened(), lines(error(410, "Expired", "old")), Answered(member(5))],
        [Upserted(member(5))],
        "watch from 0",
        [],
    ),
    (
        "one object whose kind is no longer served ends the watch",
        ONE,
        [Answered(member(5)), refused(404)],
        [Upserted(member(5))],
        "give up",
        [],
    ),
]


@pytest.mark.parametrize(
    ("followed", "reports", "delivered", "asks", "pauses"),
    [pytest.param(*rest, id=name) for name, *rest in SCENARIOS],
)
def test_scenario(
    followed: str | None, reports: Sequence[Report], delivered: list[WatchEvent], asks: str, pauses: list[str]
) -> None:
    run = Run(followed).hear(*reports)
    assert run.delivered == delivered
    assert run.asks == asks
    assert [why for _, why in run.pauses] == pauses


def test_one_object_deleted_between_the_read_and_the_stream_is_read_again() -> None:
    run = Run(ONE).hear(Answered(member(5)), Opened())
    assert run.action == Read(run.now + FIRST_EVENT)
    run.now += FIRST_EVENT
    run.hear(Silent(), refused(404))
    assert run.delivered == [Upserted(member(5)), Removed(member(5))]


def test_one_object_that_a_stream_has_sent_is_read_until_the_end() -> None:
    run = Run(ONE).hear(Answered(member(5)), Opened(), lines(("ADDED", member(5))))
    assert run.action == Read(run.now + SHORTEST + GRACE)
    run.now += SHORTEST
    run.hear(Ended())
    assert run.asks == "fetch /web-1"
    assert not run.pauses


def test_a_stream_from_any_version_is_asked_for_without_bookmarks() -> None:
    """With them, an API server whose etcd is older refuses it for ever."""
    action = Run(ONE, draw=0.5).hear(Answered(member(5))).action
    assert isinstance(action, Open)
    assert action.request.query == {
        "watch": "1",
        "resourceVersion": "0",
        "timeoutSeconds": "360",
        "fieldSelector": "metadata.name=web-1",
    }


def test_a_stream_is_asked_for_with_bookmarks_and_an_end() -> None:
    changed = lines(("MODIFIED", member(7)))
    action = Run(ONE, draw=0.5).hear(Answered(member(5)), Opened(), changed, Lost("cut")).action
    assert isinstance(action, Open)
    assert action.request.path == COLLECTION
    assert action.request.verb == "watch"
    assert action.request.what == "members web-1"
    assert action.request.query == {
        "watch": "1",
        "resourceVersion": "7",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "360",
        "fieldSelector": "metadata.name=web-1",
    }


@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_a_stream_lasts_between_its_bounds_and_is_read_a_little_longer(draw: float) -> None:
    run = Run(ALL, draw).hear(page(4))
    assert isinstance(run.action, Open)
    seconds = int(run.action.request.query["timeoutSeconds"])
    assert SHORTEST <= seconds <= LONGEST
    run.hear(Opened())
    assert run.action == Read(run.now + seconds + GRACE)


def test_a_stream_that_ends_when_it_should_is_opened_again_at_once() -> None:
    run = Run(ALL).hear(page(4), Opened())
    run.now += SHORTEST
    run.hear(Ended())
    assert run.asks == "watch from 4"
    assert not run.pauses


def test_events_do_not_prolong_a_stream() -> None:
    run = Run(ALL).hear(page(4), Opened())
    until = run.action
    run.now += 100
    assert run.hear(lines(("ADDED", A))).action == until


def test_after_a_bookmark_long_silence_means_that_the_server_is_gone() -> None:
    run = Run(ALL, draw=0.9).hear(page(4), Opened())
    run.now += 60
    run.hear(lines(bookmark(5)))
    assert run.action == Read(run.now + SILENCE)
    run.now += 60
    assert run.hear(lines(bookmark(6))).action == Read(run.now + SILENCE)


def test_the_refusal_that_ended_it_is_handed_on() -> None:
    refusal = ApiRefusal(403, "Forbidden", "no", "ask")
    assert Run(ALL).hear(refusal).action == Abort(refusal)


def test_pauses_grow_and_end_when_a_stream_has_brought_something() -> None:
    run = Run(ALL).hear(page(4), *[Lost("x")] * 7)
    assert [seconds for seconds, _ in run.pauses] == [1, 2, 4, 8, 16, 30, 30]
    run.pauses.clear()
    run.hear(Opened(), lines(bookmark(5)), Lost("x"))
    assert [seconds for seconds, _ in run.pauses] == [1]


def test_a_stream_that_opens_and_brings_nothing_is_no_success() -> None:
    run = Run(ALL).hear(page(4), *[Opened(), Ended()] * 4)
    assert [seconds for seconds, _ in run.pauses] == [1, 2, 4, 8]


def test_a_stream_that_lasted_is_a_success_even_if_it_brought_nothing() -> None:
    run = Run(ALL).hear(page(4), Lost("x"), Lost("x"), Opened())
    run.now += 40
    run.pauses.clear()
    run.hear(Lost("x"))
    assert [seconds for seconds, _ in run.pauses] == [1]


@pytest.mark.parametrize(
    ("reports", "loop"),
    [
        pytest.param([page(4), *[refused(410), page(5)] * 2], None, id="two versions are too old"),
        pytest.param(
            [page(4), *[refused(410), page(5)] * 3],
            "the version to watch from is too old; 3 times in a row",
            id="three versions are too old",
        ),
        pytest.param(
            [page(4), *[Opened(), Ended()] * 5],
            "the API server ended the watch early; 5 times in a row",
            id="streams end early",
        ),
        pytest.param([page(4), *[Opened(), Lost("x")] * 5, Lost("y")], "y; 5 times in a row", id="streams break"),
        pytest.param([page(4), *[Lost("x")] * 9], None, id="a server that is away is no loop"),
        pytest.param([page(4), *[Opened(), Ended()] * 5, Opened(), lines(bookmark(9))], None, id="a stream works"),
        pytest.param(
            [page(4), Opened(), lines(bookmark(9)), Ended(), *[refused(410), page(5)] * 3],
            "the version to watch from is too old; 3 times in a row",
            id="streams worked before",
        ),
    ],
)
def test_a_watch_that_is_answered_and_never_works_is_a_loop(reports: Sequence[Report], loop: str | None) -> None:
    assert Run(ALL).hear(*reports).machine.loop == loop


def test_one_object_that_each_stream_sends_first_is_no_success() -> None:
    run = Run(ONE).hear(*[Answered(member(5)), Opened(), lines(("ADDED", member(5))), Ended()] * 4)
    assert [seconds for seconds, _ in run.pauses] == [1, 2, 4, 8]
    assert run.machine.loop == "the API server ended the watch early; 4 times in a row"


def test_a_loop_ends_when_a_stream_has_lasted() -> None:
    run = Run(ONE).hear(*[Answered(member(5)), Opened(), lines(("ADDED", member(5))), Ended()] * 4)
    run.hear(Answered(member(5)), Opened(), lines(("ADDED", member(5))))
    assert run.action == Read(run.now + SETTLED)
    assert run.machine.loop
    run.now += SETTLED
    run.hear(Silent())
    assert run.machine.loop is None
    assert run.action == Read(run.now - SETTLED + SHORTEST + GRACE)


def test_a_server_sets_the_least_pause() -> None:
    run = Run(ALL).hear(refused(429, retry_after=12.0), refused(503, retry_after=0.5))
    assert [seconds for seconds, _ in run.pauses] == [12, 2]
    behind = lines(error(504, "Timeout", "Too large resource version: 4", retryAfterSeconds=9))
    assert Run(ALL).hear(page(4), Opened(), behind).pauses[0][0] == 9


def test_a_pause_is_drawn_once() -> None:
    machine = WatchMachine(MEMBERS, "shop")
    machine.next_action(0.0, 0.0)
    machine.receive(Lost("x"), 0.0)
    first = machine.next_action(0.0, 0.1)
    assert isinstance(first, Pause)
    assert machine.next_action(0.0, 0.9) == first
    assert machine.next_action(first.until / 2, 0.9) == first
    assert isinstance(machine.next_action(first.until, 0.9), Fetch)


@given(st.lists(st.floats(min_value=0, max_value=1, exclude_max=True), min_size=1, max_size=20))
def test_pauses_stay_between_a_quarter_and_the_whole_of_the_back_off(draws: list[float]) -> None:
    machine = WatchMachine(MEMBERS, None)
    now = 0.0
    for attempt, draw in enumerate(draws):
        machine.receive(Lost("x"), now)
        action = machine.next_action(now, draw)
        assert isinstance(action, Pause)
        whole = min(RECONNECT.most, RECONNECT.first * 2.0**attempt)
        assert whole / 4 - 1e-6 <= action.until - now <= whole + 1e-6
        now = action.until


@given(data=st.data(), count=st.integers(min_value=0, max_value=8))
def test_a_stream_means_the_same_however_it_is_cut(data: st.DataObject, count: int) -> None:
    text = lines(*[("MODIFIED", member(10 + number, f"m{number}")) for number in range(count)]).data
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    run = Run(ALL).hear(page(4), Opened(), *[Arrived(piece) for piece in pieces])
    assert run.delivered[1:] == [Upserted(member(10 + number, f"m{number}")) for number in range(count)]
    assert run.hear(Lost("x")).asks == f"watch from {9 + count if count else 4}"


WORDS = [*get_args(WatchEvent), *get_args(Action), *(report for report in get_args(Report) if report is not ApiRefusal)]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.__name__)
def test_a_word_never_changes(word: type) -> None:
    assert dataclasses.is_dataclass(word)
    assert word.__dataclass_params__.frozen


def test_words_are_equal_by_content_and_differ_by_kind() -> None:
    found = {"metadata": {"name": "a"}}
    assert Upserted(found) == Upserted(dict(found))
    assert Upserted(found) != Removed(found)
    assert Pause(1.0, "x") != Pause(2.0, "x")
    assert Lost("x") != Lost("y")


def test_labels_are_in_the_list_and_in_the_stream() -> None:
    machine = WatchMachine(MEMBERS, None, labels="exclave.dev/group")
    for _ in range(2):
        action = machine.next_action(0.0, 0.0)
        assert isinstance(action, Fetch | Open)
        assert action.request.query["labelSelector"] == "exclave.dev/group"
        machine.receive(page(9), 0.0)
        while isinstance(machine.next_action(0.0, 0.0), Deliver):
            pass


def test_what_is_not_needed_of_an_object_is_dropped_before_all_pages_are_read() -> None:
    def trim(found: Object) -> Object:
        return {"metadata": found["metadata"]}

    machine = WatchMachine(MEMBERS, None, trim=trim)
    large = {"metadata": {"name": "a", "resourceVersion": "8"}, "spec": {"facts": "x" * 1000}}
    machine.next_action(0.0, 0.0)
    machine.receive(page(9, large), 0.0)
    assert machine.next_action(0.0, 0.0) == Deliver(Listed((trim(large),)))
    assert isinstance(machine.next_action(0.0, 0.0), Open)
    machine.receive(Opened(), 0.0)
    for kind, event in (("MODIFIED", Upserted), ("DELETED", Removed)):
        machine.receive(Arrived(json.dumps({"type": kind, "object": large}).encode() + b"\n"), 0.0)
        assert machine.next_action(0.0, 0.0) == Deliver(event(trim(large)))
