"""TODO."""

from datetime import datetime, timezone


def epoch(text: str) -> float | None:
    """A time of Kubernetes as epoch seconds; None if it is none."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def rfc3339(now: float) -> str:
    """Epoch seconds as Kubernetes' Time: whole seconds, UTC."""
    return datetime.fromtimestamp(int(now), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(now: float) -> str:
    """Epoch seconds as Kubernetes' MicroTime, which Leases use."""
    return datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
