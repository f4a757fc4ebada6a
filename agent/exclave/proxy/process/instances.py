"""`instances.json`: which processes are our proxies, so that the next agent adopts them. Pure.

Rules: a record is written before its process may become the proxy, so there is never a proxy without a record. Which
process is ours is for kit.recognition to say; the digests of environment and program decide nothing of that: they say
whether what runs is still what is wanted. Records of agents that did not yet note the program say nothing of it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exclave.kit.host.process_identity import ProcessRecord
from exclave.link.layout import INSTANCES, Instance

FILE = "instances.json"


@dataclass(frozen=True)
class BinaryId:
    """A program. `stamp` is `device:inode:size:mtime` of its file, `digest` names its content."""

    stamp: str
    digest: str


@dataclass(frozen=True)
class InstanceRecord(ProcessRecord):
    """One process that was launched as an instance."""

    environment: str
    program: BinaryId | None = None


def render_instances(records: Mapping[Instance, InstanceRecord]) -> str:
    """The file's text."""
    return json.dumps({instance: asdict(record) for instance, record in sorted(records.items())}, indent=2) + "\n"


def parse_instances(text: str) -> dict[Instance, InstanceRecord]:
    """Read the file. Raises ValueError if it is damaged; keys of a newer agent are ignored."""
    tree = json.loads(text)
    if not isinstance(tree, dict):
        raise ValueError("instances: a JSON object was expected")
    return {instance: _record(tree[instance]) for instance in INSTANCES if instance in tree}


def interpreter_of(head: bytes) -> str | None:
    """The interpreter that runs a script with these first bytes; None for other programs. Source: execve(2)."""
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n", 1)[0].split()
    return words[0].decode() if words else None


def _record(tree: Any) -> InstanceRecord:
    try:
        return InstanceRecord(
            int(tree["pid"]),
            int(tree["start_ticks"]),
            str(tree["boot_id"]),
            str(tree["executable"]),
            str(tree["environment"]),
            _program(tree.get("program")),
        )
    except (KeyError, TypeError) as problem:
        raise ValueError(f"instances: {problem} is missing or wrong") from None


def _program(tree: Any) -> BinaryId | None:
    return None if tree is None else BinaryId(str(tree["stamp"]), str(tree["digest"]))
