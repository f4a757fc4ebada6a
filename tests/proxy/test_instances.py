"""Which process is ours: only the one that was recorded, in every respect."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.proxy.instances import (
    InstanceRecord,
    ProcessView,
    interpreter_of,
    parse_instances,
    render_instances,
    start_ticks_of,
    why_foreign,
)

BOOT = "5f9a7d5e-0000-4000-8000-000000000001"
RECORD = InstanceRecord(4711, 90_210, BOOT, "/usr/lib/exclave/linkerd2-proxy", "0123456789abcdef")
FOUND = ProcessView(RECORD.start_ticks, RECORD.executable)

FOREIGN = {
    "the machine was booted since": ("another", FOUND, "it was started before the last boot"),
    "it has ended": (BOOT, None, "process 4711 has ended"),
    "its number was given to another": (
        BOOT,
        replace(FOUND, start_ticks=90_211),
        "process 4711 was started at another time: its number was used again",
    ),
    "it runs another program": (
        BOOT,
        replace(FOUND, executable="/usr/bin/bash"),
        "process 4711 runs /usr/bin/bash, not /usr/lib/exclave/linkerd2-proxy",
    ),
}


@pytest.mark.parametrize(("boot", "found", "words"), FOREIGN.values(), ids=FOREIGN)
def test_a_process_that_differs_in_anything_is_not_ours(boot: str, found: ProcessView | None, words: str) -> None:
    assert why_foreign(RECORD, boot, found) == words


@pytest.mark.parametrize("executable", [RECORD.executable, f"{RECORD.executable} (deleted)"])
def test_the_recorded_process_is_ours_even_if_its_file_was_replaced(executable: str) -> None:
    assert why_foreign(RECORD, BOOT, replace(FOUND, executable=executable)) is None


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
    "no record": '{"a": null}',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # json's own words differ by version
        parse_instances(text)


def test_start_ticks_are_found_behind_any_name() -> None:
    tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 90210 20 21"
    for name in ("linkerd2-proxy", "a b", "a) S 1 (b", ")"):
        assert start_ticks_of(f"4711 ({name}) {tail}") == 90_210


@pytest.mark.parametrize("stat", ["", "4711 (name) S 1 2", "4711 name S " + "1 " * 30])
def test_another_form_of_stat_is_refused(stat: str) -> None:
    with pytest.raises(ValueError, match="/proc/<pid>/stat has another form than expected"):
        start_ticks_of(stat)


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        (b"\x7fELF\x02\x01\x01", None),
        (b"", None),
        (b"#!", None),
        (b"#!/bin/sh\necho", "/bin/sh"),
        (b"#! /usr/bin/python3 -I\nimport sys", "/usr/bin/python3"),
    ],
)
def test_a_script_runs_as_its_interpreter(head: bytes, interpreter: str | None) -> None:
    assert interpreter_of(head) == interpreter
