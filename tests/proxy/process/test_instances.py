"""The record of instances as a file: what is written is read, and damage is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.proxy.process.instances import InstanceRecord, interpreter_of, parse_instances, render_instances

BOOT = "5f9a7d5e-0000-4000-8000-000000000001"
RECORD = InstanceRecord(4711, 90_210, BOOT, "/usr/lib/exclave/linkerd2-proxy", "0123456789abcdef")

records = st.builds(
    InstanceRecord, st.integers(1, 2**22), st.integers(0, 2**63), st.text(), st.text(), st.text("0123456789abcdef")
)


@given(st.dictionaries(st.sampled_from(("a", "b")), records))
def test_what_is_written_is_read(kept: dict[str, InstanceRecord]) -> None:
    assert parse_instances(render_instances(kept)) == kept  # type: ignore[arg-type]


def test_what_a_newer_agent_adds_is_passed_over() -> None:
    tree = json.loads(render_instances({"a": RECORD}))
    tree["a"]["cgroup"] = "exclave.slice"
    tree["c"] = {"pid": 1}
    assert parse_instances(json.dumps(tree)) == {"a": RECORD}


DAMAGED = {
    "nothing": "",
    "half of it": render_instances({"a": RECORD})[:60],
    "a list": "[]",
    "no pid": '{"a": {"start_ticks": 1, "boot_id": "", "executable": "", "environment": ""}}',
    "a pid in words": '{"a": {"pid": "one", "start_ticks": 1, "boot_id": "", "executable": "", "environment": ""}}',
    "a pid without end": render_instances({"a": RECORD}).replace("4711", "Infinity"),
    "no record": '{"a": null}',
    "a program that is a text": render_instances({"a": RECORD}).replace('"program": null', '"program": "p"'),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # json's own words differ by version
        parse_instances(text)


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        (b"\x7fELF\x02\x01\x01", None),
        (b"", None),
        (b"#!", None),
        (b"#!/bin/sh\necho", "/bin/sh"),
        (b"#!/opt/\xff/sh\necho", "/opt/\udcff/sh"),  # as Python names a file that is not UTF-8
        (b"#! /usr/bin/python3 -I\nimport sys", "/usr/bin/python3"),
    ],
)
def test_a_script_runs_as_its_interpreter(head: bytes, interpreter: str | None) -> None:
    assert interpreter_of(head) == interpreter
