"""Lists in pages, as `limit` and `continue` ask for them. Pure.

Rules: every page of a list shows the moment of its first one, however much is changed in between; the token says which
moment that is and after which object to go on. How many are left is told only where nothing was selected by labels.
Source: k8s.io/apiserver pkg/storage/continue.go and pkg/storage/etcd3/store.go.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from exclave_sandbox.apiserver.refusal import Object, bad_request

_VERSION = "meta.k8s.io/v1"
_END = "\0"
"""Follows the last name seen, so that the token means whatever comes after it."""


@dataclass(frozen=True)
class Cursor:
    """Where a list goes on: the revision that it shows, and the key of the last object told."""

    revision: int
    last: str


def key_of(found: Object) -> str:
    """What lists are ordered by."""
    metadata = found["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def read_cursor(token: str) -> Cursor:
    """Read a `continue` token. Raises Refusal (400) if it is none."""
    try:
        found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if found["v"] != _VERSION:
            raise ValueError("another version")
        return Cursor(int(found["rv"]), str(found["start"]).removesuffix(_END))
    except (ValueError, KeyError, TypeError) as problem:
        raise bad_request(f"invalid continue token: continue key is not valid: {problem}") from None


def page_of(found: Sequence[Object], limit: int, after: str, revision: int, *, counted: bool) -> Object:
    """What a list answers beside its kind: `items` and `metadata`, of at most `limit` objects (0: all of them)."""
    left = [one for one in found if key_of(one) > after] if after else list(found)
    metadata: Object = {"resourceVersion": str(revision)}
    if 0 < limit < len(left):
        token = {"v": _VERSION, "rv": revision, "start": key_of(left[limit - 1]) + _END}
        text = json.dumps(token, separators=(",", ":")).encode()
        metadata["continue"] = base64.urlsafe_b64encode(text).decode().rstrip("=")
        if counted:
            metadata["remainingItemCount"] = len(left) - limit
        left = left[:limit]
    return {"metadata": metadata, "items": left}
