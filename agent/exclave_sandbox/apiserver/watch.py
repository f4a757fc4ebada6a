"""Serves one watch: stored changes, new changes, bookmarks, and the end after its time.

No change is lost: the stored changes are read in the same step that registers the follower. A client that is more than
`MOST_BEHIND` changes behind is disconnected. A timeout interrupts waiting, never a send.
"""

from collections.abc import Iterator

import trio

from exclave_sandbox.apiserver.api import Watch
from exclave_sandbox.apiserver.messages import Object, Refusal, Send
from exclave_sandbox.apiserver.store import History, ObjectChange, event_line

MOST_BEHIND = 1000
BOOKMARK_PAUSE = 60.0  # seconds between bookmarks, as kube-apiserver's watch cache sends them
LAST_BOOKMARK = 2.0  # seconds before the end at which one more bookmark is sent, so that the next watch begins there


async def stream_watch(history: History, watch: Watch, send: Send) -> None:
    """Send the watch's events until its time is over."""
    ends = trio.current_time() + watch.seconds
    sender, receiver = trio.open_memory_channel[ObjectChange](MOST_BEHIND)

    def deliver(change: ObjectChange) -> None:
        try:
            sender.send_nowait(change)
        except trio.WouldBlock:
            history.unfollow(watch.scope, deliver)
            sender.close()

    try:
        backlog = history.since_for_watch(watch.scope, watch.revision)
    except Refusal as refused:
        await send(event_line("ERROR", refused.status))
        return
    history.follow(watch.scope, deliver)
    try:
        first = [event_line("ADDED", found) for found in watch.initial]
        await _send_lines(send, [*first, *_lines(backlog, watch)])
        await _send_changes(history, watch, receiver, send, ends)
    finally:
        history.unfollow(watch.scope, deliver)


async def _send_changes(
    history: History, watch: Watch, receiver: "trio.MemoryReceiveChannel[ObjectChange]", send: Send, ends: float
) -> None:
    bookmark_at = _next_bookmark(trio.current_time(), ends)
    while trio.current_time() < ends:
        changes: list[ObjectChange] = []
        with trio.move_on_at(min(ends, bookmark_at)):
            try:
                changes = [await receiver.receive()]
            except trio.EndOfChannel:
                return
        changes += _waiting(receiver)
        lines = list(_lines(changes, watch))
        if bookmark_at <= trio.current_time() < ends:
            bookmark_at = _next_bookmark(trio.current_time(), ends)
            if watch.bookmarks and history.revision > watch.revision:
                lines.append(event_line("BOOKMARK", _bookmark(watch, history.revision)))
        await _send_lines(send, lines)


def _next_bookmark(now: float, ends: float) -> float:
    last = ends - LAST_BOOKMARK
    return min(now + BOOKMARK_PAUSE, last) if now < last else now + BOOKMARK_PAUSE


def _waiting(receiver: "trio.MemoryReceiveChannel[ObjectChange]") -> Iterator[ObjectChange]:
    while True:
        try:
            yield receiver.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return


async def _send_lines(send: Send, lines: list[bytes]) -> None:
    if lines:
        await send(b"".join(lines))


def _lines(changes: list[ObjectChange], watch: Watch) -> Iterator[bytes]:
    """The events of changes: an object that begins to match the selector is ADDED, one that stops is DELETED."""
    for change in changes:
        if not watch.selector.requirements:
            yield change.line
            continue
        was = change.before is not None and watch.selector.accepts(change.before)
        is_ = change.after is not None and watch.selector.accepts(change.after)
        if is_ and change.after is not None:
            yield event_line("MODIFIED" if was else "ADDED", change.after)
        elif was:
            yield event_line("DELETED", change.tombstone)


def _bookmark(watch: Watch, revision: int) -> Object:
    resource = watch.kind.resource
    return {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": {"resourceVersion": str(revision), "creationTimestamp": None},
    }
