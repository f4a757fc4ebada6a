"""Which process is ours: only the one that was recorded, in every respect."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.kit.host.process_identity import ProcessRecord, ProcessView, mismatch, parse_process, start_ticks_of

BOOT = "5f9a7d5e-0000-4000-8000-000000000001"
RECORD = ProcessRecord(4711, 90_210, BOOT, "/usr/lib/exclave/linkerd2-proxy")
FOUND = ProcessView(RECORD.start_ticks, RECORD.executable)

FOREIGN = {
    "the machine was booted since": ("another", FOUND, "it was started before the last boot"),
    "it has ended": (BOOT, None, "process 4711 has ended"),
    "its number was used again": (
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
    assert mismatch(RECORD, boot, found) == words


@pytest.mark.parametrize("executable", [RECORD.executable, f"{RECORD.executable} (deleted)"])
def test_the_recorded_process_is_ours_even_if_its_file_was_replaced(executable: str) -> None:
    assert mismatch(RECORD, BOOT, replace(FOUND, executable=executable)) is None


def test_start_ticks_are_found_behind_any_name() -> None:
    tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 90210 20 21"
    for name in ("linkerd2-proxy", "a b", "a) S 1 (b", ")"):
        assert start_ticks_of(f"4711 ({name}) {tail}") == 90_210


@pytest.mark.parametrize("stat", ["", "4711 (name) S 1 2", "4711 name S " + "1 " * 30])
def test_another_form_of_stat_is_refused(stat: str) -> None:
    with pytest.raises(ValueError, match="/proc/<pid>/stat has another form than expected"):
        start_ticks_of(stat)


@given(st.builds(ProcessRecord, st.integers(1, 2**22), st.integers(0, 2**63), st.text(), st.text()))
def test_a_record_is_read_as_it_was_written(record: ProcessRecord) -> None:
    assert parse_process(json.loads(json.dumps(asdict(record)))) == record


@pytest.mark.parametrize("tree", [[], None, {"pid": 1}, {"pid": float("inf")}, {"pid": "one"}])
def test_a_damaged_record_is_refused(tree: object) -> None:
    with pytest.raises(ValueError):  # int's own words differ by version
        parse_process(tree)
