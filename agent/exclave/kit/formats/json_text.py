"""Parses JSON from senders that are not trusted: what it costs is bounded, and each fault is one error. Pure.

Python's own limit of depth depends on its version and on the caller's stack, so depth is counted here.
"""

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

DEEPEST = 200  # levels. A Kubernetes object has about 10, the schema of a CustomResourceDefinition about 40.
LONGEST_NUMBER = 1000  # characters. The time to read an integer grows with their square.

# A string that never ends reaches to the end of the text. Without that, each quote in it would be searched from again.
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NUMBERS = re.compile(rb"[-+.0-9eE]{%d,}" % LONGEST_NUMBER)
_OPENING, _CLOSING = b"[{", b"]}"
_OTHERS = bytes(set(range(256)) - set(_OPENING + _CLOSING))
# As signed bytes: one level in, one level out, none.
_STEPS = bytes.maketrans(_OPENING + _CLOSING + _OTHERS, b"\x01\x01\xff\xff" + bytes(len(_OTHERS)))
_BELOW = re.compile(b"\x01+")


def parse_json(text: str | bytes) -> Any:
    """The value in a JSON text. Raises ValueError, which quotes nothing of the text."""
    encoded = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    # A text with few brackets is not deep, which spares most texts the search for their strings.
    if encoded.count(b"[") + encoded.count(b"{") > DEEPEST:
        brackets = _STRINGS.sub(b"", encoded).translate(None, _OTHERS)
        if max(_levels(brackets), default=0) > DEEPEST:
            raise ValueError(f"JSON of at most {DEEPEST} levels was expected")
    return _DECODER.decode(text if isinstance(text, str) else text.decode())


def parse_json_cut(text: bytes) -> tuple[Any, bool]:
    """The value in a JSON text, with each excess cut away, and whether there was one. Raises ValueError.

    Null replaces a value below `DEEPEST` levels and a number of `LONGEST_NUMBER` characters or more. U+FFFD replaces
    bytes that are no UTF-8.
    """
    try:
        return parse_json(text), False
    except ValueError:
        return parse_json(_cut(text.decode("utf-8", "replace").encode())), True


def _whole_number(digits: str) -> int:
    if len(digits) >= LONGEST_NUMBER:
        raise ValueError(f"JSON with numbers of less than {LONGEST_NUMBER} digits was expected")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_whole_number)


def _levels(text: bytes) -> Iterator[int]:
    """The level after each byte of a text without strings."""
    return accumulate(memoryview(text.translate(_STEPS)).cast("b"))


def _cut(text: bytes) -> bytes:
    outside = _STRINGS.sub(lambda found: b" " * len(found.group()), text)  # the same places as in the text
    below = bytes([level > DEEPEST for level in _levels(outside)])
    runs = [(run.start(), run.end() + 1) for run in _BELOW.finditer(below)]  # each with its closing bracket
    shallow = [found.span() for found in _NUMBERS.finditer(outside) if not below[found.start()]]
    parts, begin = [], 0
    for start, end in sorted(runs + shallow):
        parts += [text[begin:start], b"null"]
        begin = end
    return b"".join((*parts, text[begin:]))
