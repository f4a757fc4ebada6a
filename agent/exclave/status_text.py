"""What a command says of a status or of a failure: lines for a terminal, objects for programs, exit codes. Pure.

Rules: a script asks for the status often, so nothing is imported here that takes time; states are told by their words.
What is unknown is left out of the lines. An unexpected exception's own text is never shown, since it may hold a secret.
"""

import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from exclave.errors import ExclaveError, Fault


def exit_code(status: Mapping[str, Any]) -> int:
    """What `exclave status` returns: 0 ready, 3 a member and not ready, 4 unjoined."""
    if status["state"] in ("unjoined", "joining"):
        return 4
    return 0 if status["listing"]["ready"] and status["state"] in ("ready", "orphaned") else 3


NO_AGENT = 5
"""What `exclave status` returns when nobody answers."""


def error_object(code: int, word: str, message: str, hint: str) -> dict[str, Any]:
    """What a command that failed prints with `--json`."""
    return {"error": {"code": code, "word": word, "message": message, "hint": hint}}


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


BUG = "something happened that should not; this is a bug of exclave's"
BUG_HINT = "report it, with the lines above; they hold no secret"


def error_lines(error: ExclaveError) -> str:
    """A failure for a terminal: what was met, then what to do."""
    return f"exclave: {error.message}\n  to do: {error.hint}"


def bug_lines(problem: BaseException) -> str:
    """Where something happened that should not: types and places, never an exception's own words."""
    return "\n".join([*_places(problem), f"exclave: {BUG}", f"  to do: {BUG_HINT}"])


def bug_object() -> dict[str, Any]:
    """The same for programs; the places go to the log."""
    return error_object(Fault.BUG.code, Fault.BUG.word, BUG, BUG_HINT)


def _places(problem: BaseException) -> Iterator[str]:
    yield f"{type(problem).__module__}.{type(problem).__qualname__}"
    for frame in traceback.extract_tb(problem.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
    for inner in getattr(problem, "exceptions", ()):
        yield from _places(inner)
    if problem.__cause__ is not None:
        yield from _places(problem.__cause__)


def find_error(problem: BaseException) -> ExclaveError | None:
    """The failure that a person can act on, in an exception or anywhere in a group of them."""
    if isinstance(problem, ExclaveError):
        return problem
    found = (find_error(inner) for inner in getattr(problem, "exceptions", ()))
    return next((error for error in found if error is not None), None)
