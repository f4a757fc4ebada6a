"""The JSON of `nft -j`: a list of objects, each under the name of its kind. Source: libnftables-json(5). Pure."""

from typing import Any

from exclave.kit.formats.json_text import parse_json


def parse_items(listing: str | bytes) -> list[dict[str, Any]]:
    """The objects of a listing, such as `{"chain": {…}}`. Raises ValueError."""
    try:
        items = parse_json(listing)["nftables"]
    except (KeyError, TypeError, ValueError):
        items = None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError("nft -j: its JSON was expected")
    return items
