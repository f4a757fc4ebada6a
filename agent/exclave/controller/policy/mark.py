"""The mark by which the controller recognises a Member that it has admitted. Pure.

Others may write a Member's conditions, so a condition is a report. The mark is an HMAC, and only the controller reads
its key. Versions before the mark wrote none: a Member that is older than the key is recognised by its account instead.
"""

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass, field

from exclave.api.names import MARK_KEY, MARK_SECRET, parse_member_name
from exclave.api.requests import SECRETS, Object
from exclave.kit.formats.times import epoch

KEY_BYTES = 32


@dataclass(frozen=True)
class MarkKey:
    """The key of all marks. `created`: when its Secret was created, by the API server's clock (epoch seconds)."""

    secret: bytes = field(repr=False)
    created: float = 0.0


def mark_of(key: MarkKey, member: Object) -> str:
    """The mark of this Member, and of no other: also a later Member of its name has another uid. Raises ValueError."""
    metadata = member["metadata"]
    name = parse_member_name(str(metadata["name"]))
    content = ["admitted", str(metadata["namespace"]), name.group, name.account, str(metadata["uid"])]
    return hmac.new(key.secret, json.dumps(content).encode(), hashlib.sha256).hexdigest()


def has_mark(key: MarkKey, member: Object, mark: str) -> bool:
    """True if this is the Member's mark."""
    try:
        return hmac.compare_digest(mark_of(key, member).encode(), mark.encode())
    except ValueError:
        return False


def is_older(member: Object, key: MarkKey) -> bool:
    """True if the Member was created before the key, so that an earlier version may have admitted it."""
    created = epoch(str(member["metadata"].get("creationTimestamp") or ""))
    return created is not None and created < key.created


def key_object(namespace: str, secret: bytes) -> Object:
    """The Secret with the key."""
    return {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": {"name": MARK_SECRET, "namespace": namespace},
        "data": {MARK_KEY: base64.b64encode(secret).decode()},
    }


def read_key(found: Object) -> MarkKey:
    """Read the Secret. Raises ValueError."""
    try:
        secret = base64.b64decode(str((found.get("data") or {}).get(MARK_KEY) or ""), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ValueError(
            f"Secret {MARK_SECRET}: key: {KEY_BYTES} bytes were expected; delete the Secret, and the controller makes "
            "another one"
        )
    return MarkKey(secret, epoch(str(found["metadata"].get("creationTimestamp") or "")) or 0.0)
