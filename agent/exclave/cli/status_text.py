"""What a command says of a status or of a failure: lines for a terminal, objects for programs, exit codes. Pure.

Rules: a script asks for the status often, so nothing is imported here that takes time; states are told by their words.
What is unknown is left out of the lines. An unexpected exception's own text is never shown, since it may hold a secret.
"""

from collections.abc import Mapping
from typing import Any


def exit_code(status: Mapping[str, Any]) -> int:
    """What `exclave status` returns: 0 ready, 3 a member and not ready, 4 unjoined."""
    if status["state"] in ("unjoined", "joining"):
        return 4
    return 0 if status["listing"]["ready"] and status["state"] in ("ready", "orphaned") else 3


NO_AGENT = 5
"""What `exclave status` returns when nobody answers."""


def status_lines(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line for a terminal; what is unknown is left out."""
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
        told = "ready" if listing["ready"] else f"not ready ({listing['reason'] or 'nothing told yet'})"
        lines.append(("listing", f"{told}, ports listed: {ports}"))
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
        stands = "in place" if redirect["matches"] else ("another than wanted" if redirect["installed"] else "none")
        captured = redirect["captured"]
        counted = f"connections captured: {captured['inbound']} in, {captured['outbound']} out"
        lines.append(("rules", f"{stands}; {counted}"))
    return lines


def _probe_line(probe: Mapping[str, Any]) -> str:
    return f"{probe['kind']} {probe['port']}: {'passes' if probe['passing'] else probe['message']}"
