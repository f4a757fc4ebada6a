"""A status as an exit code and as lines for a person, coloured and wrapped on a terminal.

Scripts query the status often, so this does without the library rich: its import takes longer than
`exclave status`, and it would be one more package on every machine.
"""

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from exclave.kit.formats.visible_text import VisibleText, visible, with_head
from exclave.kit.host.output import is_terminal, print_out

NO_AGENT = 5  # the exit code of `exclave status` if no agent answers
IDLE_HINT = "nothing on this machine is changed; to join a mesh: exclave join"
INDENT = 13  # columns of a label

# SGR parameters (ECMA-48): 1 bold, 31 red, 33 yellow; every other label is dim (2).
_STYLES = {"state": "1", "problem": "1;31", "to do": "33", "waiting": "33"}


def exit_code(status: Mapping[str, Any]) -> int:
    """The exit code of `exclave status`: 0 ready, 3 a member but not ready, 4 not a member."""
    if status["state"] in ("unjoined", "joining"):
        return 4
    return 0 if status["listing"]["ready"] and status["state"] in ("ready", "orphaned") else 3


def status_lines(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line. Unknown values are left out."""
    member, cluster, listing = status["member"], status["cluster"], status["listing"]
    lines = [("state", f"{status['state']} since {status['since']}")]
    if member["name"]:
        lines.append(("member", f"{member['namespace']}/{member['name']} of group {member['group']}"))
    if cluster["server"]:
        reached = "reachable" if cluster["reachable"] else "not reachable"
        if not cluster["reachable"] and cluster["answered"]:
            reached = f"not reachable, last answer at {cluster['answered']}"
        lines.append(("cluster", f"{cluster['server']} ({reached}), credential until {cluster['credentialExpires']}"))
    if status["certificate"]["notAfter"]:
        certificate = status["certificate"]
        lines.append(("certificate", f"until {certificate['notAfter']}, renewal at {certificate['renewAt']}"))
    lines += _traffic_lines(status)
    if member["name"]:
        ports = ", ".join(map(str, listing["ports"])) or "none"
        ready = "ready" if listing["ready"] else f"not ready ({listing['reason'] or 'not reported yet'})"
        as_of = f", by the cluster's last answer to an earlier agent, at {listing['asOf']}" if listing["asOf"] else ""
        lines.append(("listing", f"{ready}, ports listed: {ports}{as_of}"))
        lines += [("probe", _probe_line(probe)) for probe in listing["probes"]]
    lines += [("waiting", f"for {wait['for']} since {wait['since']}") for wait in status["waiting"]]
    for problem in status["problems"]:
        lines += [("problem", problem["message"]), ("to do", problem["hint"])]
    if status["state"] == "unjoined" and not status["problems"]:
        lines.append(("to do", IDLE_HINT))
    return lines


def _traffic_lines(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for name, instance in status["proxy"]["instances"].items():
        if instance is not None:
            active = ", the rules point to it" if status["proxy"]["active"] == name else ""
            lines.append((f"proxy {name}", f"{instance['state']}, process {instance['pid']}{active}"))
    redirect = status["redirect"]
    if redirect["installed"] is not None:
        state = "in place" if redirect["matches"] else ("not as wanted" if redirect["installed"] else "none")
        captured = redirect["captured"]
        counted = f"connections captured: {captured['inbound']} in, {captured['outbound']} out"
        lines.append(("rules", f"{state}; {counted}"))
    return lines


def _probe_line(probe: Mapping[str, Any]) -> str:
    return f"{probe['kind']} {probe['port']}: {'passes' if probe['passing'] else probe['message']}"


def print_lines(lines: Sequence[tuple[str, str]]) -> None:
    """Print each label with its text."""
    for label, text in lines:
        print_out(_for_terminal(label, text) if is_terminal() else with_head(_head(label), text))


def _head(label: str) -> str:
    return f"{label + ':':<{INDENT}}"


def _for_terminal(label: str, text: str) -> VisibleText:
    width = max(shutil.get_terminal_size().columns - INDENT, 20)
    wrapped = textwrap.wrap(visible(text), width, break_long_words=False, break_on_hyphens=False) or [""]
    head = _head(label)
    if "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":  # https://no-color.org
        head = f"\x1b[{_STYLES.get(label, '2')}m{head}\x1b[0m"
    return VisibleText(head + ("\n" + " " * INDENT).join(wrapped))
