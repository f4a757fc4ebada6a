"""What `nft -i` answers, and the keepalive process's record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.kit.host.process_identity import ProcessRecord
from exclave.redirect.keepalive_table import (
    COMMANDS,
    KEEPALIVE_TABLE,
    find_error,
    is_complete,
    is_owned,
    parse_record,
    render_record,
)

LISTING = """\
table inet exclave-guard { # progname nft
	flags owner

	chain kept {
		type nat hook prerouting priority dstnat + 10; policy accept;
		ct state invalid accept
	}
}
"""

ANSWERS = {
    "nothing yet": ("", False, None),
    "the table, as nft 1.0.6 lists it": (LISTING, True, None),
    "the table, behind a prompt that echoes": (f"nft> {COMMANDS}{LISTING}", True, None),
    "half of the table": (LISTING[:-3], False, None),
    "a table without an owner": (LISTING.replace("\tflags owner\n", ""), False, None),
    "a kernel that knows no owners": (
        "Error: Could not process rule: Operation not supported\nadd table inet exclave-guard { flags owner;\n",
        False,
        "Error: Could not process rule: Operation not supported",
    ),
    "half of a complaint": ("Error: Could not pro", False, None),
    "an nft without -i": (
        "Error: Interactive CLI not supported in this build\n",
        False,
        "Error: Interactive CLI not supported in this build",
    ),
}


@pytest.mark.parametrize(("answer", "held", "reason"), ANSWERS.values(), ids=ANSWERS)
def test_what_an_answer_means(answer: str, held: bool, reason: str | None) -> None:
    assert is_owned(answer) == held
    assert find_error(answer) == reason
    assert is_complete(answer) == (held or reason is not None)


def test_the_table_is_made_before_it_is_listed() -> None:
    """A line is one transaction, and nft lists what a line is to make before the kernel has it."""
    made, listed, rest = COMMANDS.split("\n")
    assert made.startswith("add table inet ")
    assert (listed, rest) == (f"list table inet {KEEPALIVE_TABLE}", "")


@given(st.builds(ProcessRecord, st.integers(1, 2**22), st.integers(0, 2**63), st.text(), st.text()))
def test_what_is_written_is_read(record: ProcessRecord) -> None:
    assert parse_record(render_record(record)) == record


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": Infinity}', '{"pid": "one"}'])
def test_a_damaged_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # json's own words differ by version
        parse_record(text)
