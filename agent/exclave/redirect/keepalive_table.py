"""The keepalive table: an owned table that keeps connections alive while others flush all rules. Decisions only. Pure.

The kernel spares a table with an owner from everybody's `flush ruleset`, and removes it when its owner ends: so a small
process owns it, `nft -i`, and does nothing else. It has the chain that keeps connections (see holding) and captures
nothing, so whatever becomes of our own table, what was translated goes on being translated. The redirect itself cannot
stand in such a table, since it has to outlive any process.

One thing to know: until 1.1.0, `nft -j list ruleset` and `nft -j list tables` read freed memory for a table that has a
flag, and their JSON may be cut off; their text is right, and so is the JSON of any one table.
Source: nft(8), table flags; linux/netfilter/nf_tables.h.
"""

import json
from dataclasses import asdict

from exclave.kit.host.process_identity import ProcessRecord

KEEPALIVE_TABLE = "exclave-guard"  # family inet

FILE = "guard.json"

COMMANDS = (
    f"add table inet {KEEPALIVE_TABLE} {{ flags owner; chain kept {{ "
    "type nat hook prerouting priority -90; policy accept; ct state invalid accept; }; }\n"
    f"list table inet {KEEPALIVE_TABLE}\n"
)
"""Two lines for `nft -i`: make the table, and list it. In one, it would be listed before the kernel has it."""


def is_whole(answer: str) -> bool:
    """Whether all has been said: a listing to its end, or a failure."""
    return is_held(answer) or why_not(answer) is not None


def is_held(answer: str) -> bool:
    """Whether the table stands and is owned."""
    lines = [line.strip() for line in answer.splitlines()]
    return answer.endswith("\n}\n") and any(line.startswith("flags owner") for line in lines)


def why_not(answer: str) -> str | None:
    """What nft complains of; None if of nothing, so far."""
    complaints = [line.strip() for line in answer.splitlines(keepends=True) if "Error" in line and line.endswith("\n")]
    return complaints[0] if complaints else None


def render_record(record: ProcessRecord) -> str:
    """The text of the file that names the keepalive process."""
    return json.dumps(asdict(record), indent=2) + "\n"


def parse_record(text: str) -> ProcessRecord:
    """Read it. Raises ValueError if it is damaged; keys of a newer agent are ignored."""
    tree = json.loads(text)
    try:
        return ProcessRecord(int(tree["pid"]), int(tree["start_ticks"]), str(tree["boot_id"]), str(tree["executable"]))
    except (KeyError, TypeError) as problem:
        raise ValueError(f"keepalive: {problem} is missing or wrong") from None
