"""JSON, read so that one error covers whatever is wrong with it. Pure."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value in a JSON text. Raises ValueError, which quotes nothing of the text."""
    try:
        return json.loads(text)
    except RecursionError:  # a text from outside decides how deep it is
        raise ValueError("JSON that is nested less deeply was expected") from None
