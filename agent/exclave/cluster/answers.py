"""Reads answers of the API server. What anybody has stored in an object stops no reader. Pure, except for the log."""

import json
import logging
from collections.abc import Iterator
from typing import Any

from exclave.api.malformed import mapping_in, mappings_in, object_title
from exclave.api.requests import Object
from exclave.errors import ClusterError, Fault
from exclave.kit.formats.json_text import parse_json_cut

log = logging.getLogger(__name__)

MOST_BYTES = 32 * 1024 * 1024  # of one answer, unpacked. A page of 500 Members has 3 MB, one object at most 3 MB.
MOST_LOGGED = 1000  # objects whose excess was logged and is not logged again


class AnswerTooLarge(ClusterError):
    """An answer of more than `MOST_BYTES`: a smaller page may be read."""

    def __init__(self, what: str) -> None:
        text = f"the API server's answer about {what} has more than {MOST_BYTES} bytes"
        super().__init__(Fault.UNREACHABLE, text, "find and delete the objects there that have megabytes")


class AnswerReader:
    """Reads the answers of one cluster. Each object with an excess is logged once."""

    def __init__(self) -> None:
        self._logged: dict[str, None] = {}  # the oldest first

    def read(self, text: bytes) -> Any:
        """The value in an answer or in one line of a watch, without `managedFields`. Raises ValueError.

        Nobody here needs `managedFields`. Whoever may write an object chooses them: the API server accepts thousands of
        levels, and bytes that are no UTF-8.
        """
        value, is_cut = parse_json_cut(text)
        for title, metadata in _objects_in(value):
            dropped = metadata.pop("managedFields", None)
            if is_cut and dropped and _has_excess(dropped):
                self._log_once(title)
        return value

    def _log_once(self, title: str) -> None:
        if title in self._logged:
            return
        self._logged[title] = None
        while len(self._logged) > MOST_LOGGED:
            del self._logged[next(iter(self._logged))]
        log.warning("%s has managedFields that no program writes; they are ignored: find out who wrote them", title)


def _objects_in(value: object) -> Iterator[tuple[str, Object]]:
    """Titles and metadata of the objects in an answer, a list or an event of a watch."""
    kind = str(value.get("kind") or "").removesuffix("List") if isinstance(value, dict) else ""
    for one in (mapping_in({"": value}, ""), mapping_in(value, "object"), *mappings_in(value, "items")):
        if metadata := mapping_in(one, "metadata"):
            yield object_title(one, "" if one.get("kind") else kind), metadata


def _has_excess(managed_fields: object) -> bool:
    """True if `parse_json_cut` has replaced something: a regular entry has neither null nor U+FFFD."""
    written = json.dumps(managed_fields)
    return "null" in written or "\\ufffd" in written
