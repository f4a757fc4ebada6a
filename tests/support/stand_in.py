"""Parts of an agent as far as they publish something."""

from types import SimpleNamespace
from typing import Any

from exclave.kit.tasks.latest import Latest


def publishing(**fields: Any) -> Any:
    """A stand-in for a part: every field is the latest value of it."""
    return SimpleNamespace(**{name: Latest(value) for name, value in fields.items()})
