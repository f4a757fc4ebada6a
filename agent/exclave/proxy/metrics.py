"""Reads samples of linkerd2-proxy's metrics page. Pure.

Source of the format: prometheus/docs, content/docs/instrumenting/exposition_formats.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

_STRING = r'"(?:[^"\\]|\\.)*"'
_SAMPLE = re.compile(rf'(?P<name>[\w:]+)(?:\{{(?P<labels>(?:[^"}}]|{_STRING})*)\}})? +(?P<value>\S+)(?: +-?\d+)?')
_LABEL = re.compile(rf"(\w+)=({_STRING})")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n"}

_EXPIRY = "identity_cert_expiration_timestamp_seconds"
EXPIRY_NAMES = (f"control_{_EXPIRY}", _EXPIRY)  # end of the proxy's certificate; in newer and older proxies


@dataclass(frozen=True)
class Sample:
    """One line of the page."""

    name: str
    labels: dict[str, str]
    value: float


def read_samples(page: str, *names: str) -> Iterator[Sample]:
    """The samples of these metrics, in the page's order. A line that is not a sample with a finite value is skipped."""
    # Not prometheus_client.parser, which parses every line: 3.6 s for a page of 10,000 lines, against 0.1 s here. The
    # agent reads this page every few seconds. tests/proxy/test_metrics.py compares the two.
    for line in page.split("\n"):
        if not line.startswith(names):
            continue
        found = _SAMPLE.fullmatch(line.rstrip("\r"))
        if found is None or found["name"] not in names:
            continue
        try:
            value = float(found["value"])
        except ValueError:
            continue
        if isfinite(value):
            labels = {name: _unescape(text[1:-1]) for name, text in _LABEL.findall(found["labels"] or "")}
            yield Sample(found["name"], labels, value)


def read_expiry(page: str) -> float | None:
    """The end of the proxy's certificate, in epoch seconds; None without a certificate."""
    first = next(read_samples(page, *EXPIRY_NAMES), None)
    return first.value or None if first is not None else None


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), text)
