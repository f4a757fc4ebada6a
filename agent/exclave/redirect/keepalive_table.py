"""The keepalive table: an owned table that keeps connections alive while others flush all rules. Pure.

The kernel excludes a table with an owner from everybody's `flush ruleset`, and removes it when its owner ends. The
owner is a small process, `nft -i`. The table has the chain that keeps connections alive (see rules/drain_ruleset) and
captures nothing. The redirect's own table cannot have an owner, since it must outlive any process.
Before nft 1.1.0, `nft -j list ruleset` and `nft -j list tables` read freed memory for a table that has a flag, and
their JSON may be cut off. Their text is correct, and so is the JSON of any single table.
Source: nft(8), table flags; linux/netfilter/nf_tables.h.
"""

import json
from dataclasses import asdict

from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.process_identity import ProcessRecord

KEEPALIVE_TABLE = "exclave-guard"  # family inet

FILE = "guard.json"

COMMANDS = (
    f"add table inet {KEEPALIVE_TABLE} {{ flags owner; chain kept {{ "
    "type nat hook prerouting priority -90; policy accept; ct state invalid accept; }; }\n"
    f"list table inet {KEEPALIVE_TABLE}\n"
)
"""Two lines for `nft -i`: make the table, then list it. In one line, it would be listed before the kernel has it."""


def is_complete(answer: str) -> bool:
    """Whether nft has answered: a whole listing, or an error."""
    return is_owned(answer) or find_error(answer) is not None


def is_owned(answer: str) -> bool:
    """Whether the listing shows the table with an owner."""
    lines = [line.strip() for line in answer.splitlines()]
    return answer.endswith("\n}\n") and any(line.startswith("flags owner") for line in lines)


def find_error(answer: str) -> str | None:
    """The first error that nft reports; None if there is none so far."""
    errors = [line.strip() for line in answer.splitlines(keepends=True) if "Error" in line and line.endswith("\n")]
    return errors[0] if errors else None


def render_record(record: ProcessRecord) -> str:
    """The text of the file that names the keepalive process."""
    return json.dumps(asdict(record), indent=2) + "\n"


def parse_record(text: str) -> ProcessRecord:
    """Read the file. Raises ValueError if it is damaged; keys of a newer agent are ignored."""
    tree = parse_json(text)
    try:
        return ProcessRecord(int(tree["pid"]), int(tree["start_ticks"]), str(tree["boot_id"]), str(tree["executable"]))
    except (KeyError, OverflowError, TypeError) as problem:
        raise ValueError(f"keepalive: {problem} is missing or wrong") from None
