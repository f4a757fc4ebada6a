"""Lists in pages: `limit` and `continue`. Pure.

Rules: all pages of a list show the state at its first page; the token holds that revision and the last object of the
page before. `remainingItemCount` is set only without a label selector.
Source: k8s.io/apiserver pkg/storage/continue.go and pkg/storage/etcd3/store.go.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from exclave_sandbox.apiserver.refusal import Object, bad_request

_VERSION = "meta.k8s.io/v1"
_END = "\0"
"""Appended to the last name: the token then means everything after that name."""


@dataclass(frozen=True)
class Cursor:
    """Where a list continues: its revision, and the key of the last object that was returned."""

    revision: int
    last: str


def key_of(found: Object) -> str:
    """The sort key of lists."""
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
    """`items` and `metadata` of one page, with at most `limit` objects (0: all of them)."""
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
