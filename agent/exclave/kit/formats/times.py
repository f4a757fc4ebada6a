"""Times and durations as Kubernetes and people write them (`1h30m`, `500ms`). Pure.

Sources: Time and MicroTime in k8s.io/apimachinery pkg/apis/meta/v1 (RFC 3339).
"""

import re
from datetime import datetime, timezone

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")

_WHOLE = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")


def epoch(text: str) -> float | None:
    """A Kubernetes time as epoch seconds; None if it is not a time. Without a zone it is UTC."""
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return time.replace(tzinfo=time.tzinfo or timezone.utc).timestamp()
    except ValueError:
        return None


def rfc3339(now: float) -> str:
    """Epoch seconds as Kubernetes' Time: whole seconds, UTC."""
    return datetime.fromtimestamp(int(now), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(now: float) -> str:
    """Epoch seconds as Kubernetes' MicroTime, which Leases use."""
    return datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_duration(text: str) -> float:
    """Seconds in `text`. Raises ValueError if it is not numbers with units from ms, s, m, h, d."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 10s, 5m or 24h")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def format_duration(seconds: float) -> str:
    """A whole number in the largest unit possible, minutes from two on: 86400 is `24h`, 60 is `60s`."""
    if seconds != int(seconds):
        return f"{round(seconds * 1000)}ms"
    whole = int(seconds)
    if whole % 3600 == 0 and whole:
        return f"{whole // 3600}h"
    if whole % 60 == 0 and whole >= 120:
        return f"{whole // 60}m"
    return f"{whole}s"
