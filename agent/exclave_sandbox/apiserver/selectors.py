"""Label and field selectors of list, watch and deletecollection. Pure.

Grammar: k8s.io/apimachinery pkg/labels/selector.go; of fields only `metadata.name` and `metadata.namespace`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exclave_sandbox.apiserver.refusal import Object, bad_request

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
        """Whether the object's labels meet every requirement. Name and namespace are not checked here."""
        if not self.requirements:
            return True
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
