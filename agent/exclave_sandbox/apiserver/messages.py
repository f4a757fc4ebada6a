"""Requests, answers and refusals of the API server, as values between HTTP and the API. Pure.

Code that refuses raises `Refusal`. Its reasons and texts are those of k8s.io/apimachinery pkg/api/errors/errors.go and
its callers, because the messages of exclave quote them. Resources are named as there: "members.exclave.dev".
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Cause:
    """One mistake in an object: the field's path, the mistake, and Kubernetes' reason word for it."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Refusal(Exception):
    """A request refused: HTTP status `code`, the Status object's `reason` and `message`, and its `details`."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    @property
    def status(self) -> Object:
        """The Status object."""
        found: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        found |= {"message": self.message, "reason": self.reason}
        if self.details is not None:
            found["details"] = self.details
        return {**found, "code": self.code}


def details_of(resource: str, name: str) -> Object:
    """The details of a Status: name, group and plural, as far as there are."""
    plural, _, group = resource.partition(".")
    found = {"name": name, "group": group, "kind": plural}
    return {key: value for key, value in found.items() if value}


def unauthorized() -> Refusal:
    """The token is invalid, expired, for another audience, or its account is deleted; the answer never states which."""
    return Refusal(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, name: str, why: str) -> Refusal:
    """An identified caller without the right."""
    named = f'{resource} "{name}"' if name else resource
    return Refusal(403, "Forbidden", f"{named} is forbidden: {why}", details_of(resource, name))


def not_found(resource: str, name: str) -> Refusal:
    """There is no such object."""
    return Refusal(404, "NotFound", f'{resource} "{name}" not found', details_of(resource, name))


def unknown_path() -> Refusal:
    """Nothing is served at this path."""
    return Refusal(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: str, name: str) -> Refusal:
    """The name is taken."""
    return Refusal(409, "AlreadyExists", f'{resource} "{name}" already exists', details_of(resource, name))


def conflict(resource: str, name: str, why: str = "") -> Refusal:
    """The object has changed, or is another one of that name."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return Refusal(409, "Conflict", message, details_of(resource, name))


def invalid(kind: str, name: str, causes: Sequence[Cause]) -> Refusal:
    """The object breaks rules of its kind; every mistake is listed."""
    texts = [str(cause) for cause in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    listed_causes = [{"reason": one.reason, "message": one.message, "field": one.field} for one in causes]
    details = {**details_of(kind, name), "causes": listed_causes}
    return Refusal(422, "Invalid", f'{kind} "{name}" is invalid: {listed}', details)


def bad_request(message: str) -> Refusal:
    """The request cannot be understood."""
    return Refusal(400, "BadRequest", message)


def too_large_version(asked: int, current: int) -> Refusal:
    """The requested version lies in the future: the caller got it from another server."""
    message = f"Too large resource version: {asked}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return Refusal(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


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
