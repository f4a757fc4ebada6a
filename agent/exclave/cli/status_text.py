"""A status as lines for a person and as an exit code. Pure.

Scripts query the status often, so this imports nothing that takes time. Unknown values are left out.
"""

from collections.abc import Mapping
from typing import Any


def exit_code(status: Mapping[str, Any]) -> int:
    """The exit code of `exclave status`: 0 ready, 3 a member but not ready, 4 not a member."""
    if status["state"] in ("unjoined", "joining"):
        return 4
    return 0 if status["listing"]["ready"] and status["state"] in ("ready", "orphaned") else 3


NO_AGENT = 5
"""The exit code of `exclave status` if no agent answers."""


def status_lines(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line."""
    member, cluster, listing = status["member"], status["cluster"], status["listing"]
    lines = [("state", f"{status['state']} since {status['since']}")]
    if member["name"]:
        lines.append(("member", f"{member['namespace']}/{member['name']} of group {member['group']}"))
    if cluster["server"]:
        reached = "reachable" if cluster["reachable"] else "not reachable"
        lines.append(("cluster", f"{cluster['server']} ({reached}), credential until {cluster['credentialExpires']}"))
    if status["certificate"]["notAfter"]:
        certificate = status["certificate"]
        lines.append(("certificate", f"until {certificate['notAfter']}, renewal at {certificate['renewAt']}"))
    lines += _traffic_lines(status)
    if member["name"]:
        ports = ", ".join(map(str, listing["ports"])) or "none"
        ready = "ready" if listing["ready"] else f"not ready ({listing['reason'] or 'not reported yet'})"
        lines.append(("listing", f"{ready}, ports listed: {ports}"))
        lines += [("probe", _probe_line(probe)) for probe in listing["probes"]]
    lines += [("waiting", f"for {wait['for']} since {wait['since']}") for wait in status["waiting"]]
    for problem in status["problems"]:
        lines += [("problem", problem["message"]), ("to do", problem["hint"])]
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
