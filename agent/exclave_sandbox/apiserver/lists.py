"""Selectors and pages of lists. Pure.

All pages of a list show the state at its first page: the `continue` token has that revision and the last object.
Sources: k8s.io/apimachinery pkg/labels/selector.go; k8s.io/apiserver pkg/storage: continue.go, etcd3/store.go.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exclave_sandbox.apiserver.messages import Object, bad_request

Labels = Mapping[str, str]
_VALUES = re.compile(r"\([^()]*\)")
_SET = re.compile(r"^(?P<key>\S+)\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s=!]+)\s*(?P<sign>==|=|!=)\s*(?P<value>[^\s=!]*)$")
_PRESENT = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^\s=!()]+)$")


@dataclass(frozen=True)
class Selector:
    """The objects that a request selects; `name` and `namespace` come from its field selector."""

    requirements: tuple[Callable[[Labels], bool], ...] = ()
    name: str | None = None
    namespace: str | None = None

    def accepts(self, object_: Object) -> bool:
        """True if the object's labels meet every requirement. Name and namespace are not checked here."""
        labels = object_["metadata"].get("labels") or {}
        return all(requirement(labels) for requirement in self.requirements)


EVERYTHING = Selector()


def parse_selector(labels: str, fields: str) -> Selector:
    """Parse `labelSelector` and `fieldSelector`. Raises Refusal (400)."""
    requirements = tuple(_requirement(part) for part in _parts(labels))
    named: dict[str, str] = {}
    for part in _parts(fields):
        found = _EQUAL.match(part)
        if found is None or found["sign"] == "!=":
            raise bad_request(f'invalid field selector "{part}": only <field>=<value> is understood')
        if found["key"] not in ("metadata.name", "metadata.namespace"):
            raise bad_request(f"field label not supported: {found['key']}")
        named[found["key"]] = found["value"]
    return Selector(requirements, named.get("metadata.name"), named.get("metadata.namespace"))


def _parts(text: str) -> list[str]:
    """The requirements, which commas separate. A comma in parentheses separates values of one requirement."""
    marked = _VALUES.sub(lambda values: values[0].replace(",", "\0"), text)
    return [part.replace("\0", ",").strip() for part in marked.split(",")] if text.strip() else []


def _requirement(part: str) -> Callable[[Labels], bool]:
    if found := _SET.match(part):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["word"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(part):
        key, value = found["key"], found["value"]
        if found["sign"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _PRESENT.match(part):
        key, wanted = found["key"], not found["absent"]
        return lambda labels: (key in labels) is wanted
    raise bad_request(f'unable to parse requirement: "{part}"')


_VERSION = "meta.k8s.io/v1"
_END = "\0"  # appended to the last name: the token then means everything after that name


def key_of(found: Object) -> str:
    """The sort key of lists."""
    metadata = found["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def read_cursor(token: str) -> tuple[int, str]:
    """A list's revision, and the key of the last object that was returned. Raises Refusal (400) if it is no token."""
    try:
        found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if found["v"] != _VERSION:
            raise ValueError("another version")
        return int(found["rv"]), str(found["start"]).removesuffix(_END)
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
