"""The metrics page: pages of the proxy's shape, then any page, compared with Prometheus' own parser."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as some
from prometheus_client.parser import text_string_to_metric_families

from exclave.proxy.metrics import Sample, read_expiry, read_samples

from .admin import EXPIRY

PAGE = """\
# HELP tcp_open_connections Number of currently-open connections.
# TYPE tcp_open_connections gauge
tcp_open_connections{peer="src",target_addr="10.77.0.20:8080"} 2
tcp_open_connections{peer="dst"} 5
tcp_open_connections 1
tcp_open_connections_more{peer="src"} 9
tcp_open_total{peer="src"} 900
"""


def test_only_the_named_metrics_are_read() -> None:
    assert list(read_samples(PAGE, "tcp_open_total", "tcp_open_connections")) == [
        Sample("tcp_open_connections", {"peer": "src", "target_addr": "10.77.0.20:8080"}, 2.0),
        Sample("tcp_open_connections", {"peer": "dst"}, 5.0),
        Sample("tcp_open_connections", {}, 1.0),
        Sample("tcp_open_total", {"peer": "src"}, 900.0),
    ]


LINES: dict[str, tuple[str, list[Sample]]] = {
    "a value with an exponent": ("x 1.8e9", [Sample("x", {}, 1.8e9)]),
    "a timestamp": ("x 1 1800000000000", [Sample("x", {}, 1.0)]),
    "no labels in the braces": ("x{} 1", [Sample("x", {}, 1.0)]),
    "a comma after the last label": ('x{a="1",} 1', [Sample("x", {"a": "1"}, 1.0)]),
    "a brace in a label": ('x{a="}",b="{"} 1', [Sample("x", {"a": "}", "b": "{"}, 1.0)]),
    "escapes in a label": (r'x{a="\"\\\n"} 1', [Sample("x", {"a": '"\\\n'}, 1.0)]),
    "a separator of lines in a label": ('x{a="1\u2028"} 1', [Sample("x", {"a": "1\u2028"}, 1.0)]),
    "lines that end as in HTTP": ("x 1\r\nx 2\r\n", [Sample("x", {}, 1.0), Sample("x", {}, 2.0)]),
    "a comment": ("# x 1", []),
    "no number": ("x soon", []),
    "no finite number": ("x NaN\nx +Inf", []),
    "no value": ("x", []),
    "an open label": ('x{a="1} 1', []),
    "a page in HTML": ("<html>x 1</html>", []),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("page", "samples"), LINES.values(), ids=LINES)
def test_a_line_is_parsed_as_a_sample_or_skipped(page: str, samples: list[Sample]) -> None:
    assert list(read_samples(page, "x")) == samples


NAMES = some.sampled_from(["x", "xy", "control_x"])
LABELS = some.dictionaries(some.sampled_from(["a", "b", "addr"]), some.text('ab"\\\n{}=, #', max_size=8), max_size=3)
SAMPLES = some.lists(some.tuples(NAMES, LABELS, some.floats(allow_nan=False, allow_infinity=False)), max_size=8)


def escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


@given(SAMPLES)
def test_any_page_is_read_as_prometheus_reads_it(samples: list[tuple[str, dict[str, str], float]]) -> None:
    page = ""
    for name, labels, value in samples:
        inside = ",".join(f'{label}="{escape(text)}"' for label, text in labels.items())
        page += f"{name}{{{inside}}} {value}\n"
    theirs = [
        Sample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    key = repr
    assert sorted(read_samples(page, "x", "xy", "control_x"), key=key) == sorted(theirs, key=key)


@given(some.text(some.sampled_from('x{}="\\, 1\na'), max_size=60))
def test_any_text_is_read_without_an_error(page: str) -> None:
    for sample in read_samples(page, "x"):
        assert sample.name == "x"
        assert math.isfinite(sample.value)


def test_a_long_line_that_is_no_sample_is_skipped_quickly() -> None:
    began = time.process_time()
    assert list(read_samples("x{" + 'a="1",' * 20_000, "x")) == []
    assert list(read_samples("x{" + "\\" * 100_000, "x")) == []
    assert time.process_time() - began < 1.0


METRICS = {
    "the name of newer proxies": (f"control_{EXPIRY} 1800000000\n", 1.8e9),
    "the name of older proxies": (f"{EXPIRY} 1800000000\n", 1.8e9),
    "labels": (f'{EXPIRY}{{a="b c"}} 1.8e9\n', 1.8e9),
    "other metrics around it": (f"# TYPE {EXPIRY} gauge\nprocess_fds 9\n{EXPIRY} 1800000000\nlater 1\n", 1.8e9),
    "no certificate yet": (f"{EXPIRY} 0\n", None),
    "no such metric": ("process_fds 9\n", None),
    "a comment only": (f"# {EXPIRY} 1800000000\n", None),
    "no number": (f"{EXPIRY} soon\n", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("metrics", "end"), METRICS.values(), ids=METRICS)
def test_the_end_of_the_certificate_is_read_from_a_page(metrics: str, end: float | None) -> None:
    assert read_expiry(metrics) == end
