"""Reads routes from the kernel. Functions raise HostError if ip cannot be run."""

from dataclasses import dataclass

from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.command import run_tool


@dataclass(frozen=True)
class Route:
    """The route to an address: its kind, its interface, and our source address."""

    kind: str
    interface: str
    source: str | None


async def read_route(address: str, *arguments: str) -> Route | str:
    """The route to an address, or the kernel's reason why there is none. `arguments` go to `ip route get`."""
    listed = await run_tool("ip", "-json", "route", "get", address, *arguments)
    if listed.status != 0:
        return listed.errors.splitlines()[0].removeprefix("RTNETLINK answers: ") if listed.errors else "no route"
    try:
        return parse_route(listed.output)
    except ValueError as problem:
        return str(problem)


def parse_route(listing: bytes) -> Route:
    """Parse the output of `ip -json route get`. Raises ValueError."""
    try:
        (found, *_) = parse_json(listing)
        return Route(found.get("type", "unicast"), found["dev"], found.get("prefsrc"))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("ip -json route get: its JSON was expected") from None
