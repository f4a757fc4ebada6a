"""Requests and answers as values between HTTP and the API. Pure."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from exclave_sandbox.apiserver.refusal import Object, Refusal


@dataclass(frozen=True)
class HttpRequest:
    """One request: its path still percent-encoded, its query decoded (last value wins), header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # the caller's token is among them
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Reply:
    """A whole answer. A string is sent as plain text, an object as JSON."""

    status: int
    body: Object | str
    headers: tuple[tuple[str, str], ...] = ()


Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True)
class StreamedReply:
    """An answer of JSON lines over time: `write` gets a function that sends a piece, and returns at the end."""

    write: Callable[[Send], Awaitable[None]]


def refusal_reply(refused: Refusal) -> Reply:
    """A refusal as an answer, with Retry-After where the refusal has one."""
    pause = (refused.details or {}).get("retryAfterSeconds")
    return Reply(refused.code, refused.status, (("Retry-After", str(pause)),) if pause else ())
