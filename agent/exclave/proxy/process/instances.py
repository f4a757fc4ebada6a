"""`instances.json`: the records of the proxy's processes, which the next agent adopts. Pure.

kit.host.process_identity decides whether a process is the recorded one. The digests of environment and binary show
whether it still is the wanted one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.process_identity import ProcessRecord
from exclave.link.layout import INSTANCES, Instance

FILE = "instances.json"


@dataclass(frozen=True)
class BinaryId:
    """A binary. `stamp` is `device:inode:size:mtime` of its file, `digest` identifies its content."""

    stamp: str
    digest: str


@dataclass(frozen=True)
class InstanceRecord(ProcessRecord):
    """One process that was launched as an instance. `environment` is a digest."""

    environment: str
    program: BinaryId | None = None  # of the binary; older agents did not write it


def render_instances(records: Mapping[Instance, InstanceRecord]) -> str:
    """The file's text."""
    return json.dumps({instance: asdict(record) for instance, record in sorted(records.items())}, indent=2) + "\n"


def parse_instances(text: str) -> dict[Instance, InstanceRecord]:
    """Read the file. Raises ValueError if it is damaged; keys of a newer agent are ignored."""
    tree = parse_json(text)
    if not isinstance(tree, dict):
        raise ValueError("instances: a JSON object was expected")
    return {instance: _record(tree[instance]) for instance in INSTANCES if instance in tree}


def interpreter_of(head: bytes) -> str | None:
    """The interpreter of a script with these first bytes, None for any other file. Source: execve(2)."""
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n", 1)[0].split()
    return words[0].decode("utf-8", "surrogateescape") if words else None  # a path need not be UTF-8


def _record(tree: Any) -> InstanceRecord:
    try:
        return InstanceRecord(
            int(tree["pid"]),
            int(tree["start_ticks"]),
            str(tree["boot_id"]),
            str(tree["executable"]),
            str(tree["environment"]),
            _binary_id(tree.get("program")),
        )
    except (AttributeError, KeyError, OverflowError, TypeError) as problem:
        raise ValueError(f"instances: {problem} is missing or wrong") from None


def _binary_id(tree: Any) -> BinaryId | None:
    return None if tree is None else BinaryId(str(tree["stamp"]), str(tree["digest"]))
