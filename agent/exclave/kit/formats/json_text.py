"""Parses JSON, with one error for every kind of invalid text. Pure."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value in a JSON text. Raises ValueError, which quotes nothing of the text."""
    try:
        return json.loads(text)
    except RecursionError:  # the sender of a text decides how deep it is
        raise ValueError("JSON that is nested less deeply was expected") from None
