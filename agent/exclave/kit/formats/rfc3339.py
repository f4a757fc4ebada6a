"""Times as Kubernetes writes them (RFC 3339, UTC). Pure.

Source: Time and MicroTime in k8s.io/apimachinery pkg/apis/meta/v1.
"""

from datetime import datetime, timezone


def epoch(text: str) -> float | None:
    """A time of Kubernetes as epoch seconds; None if it is none. A time without a zone is UTC."""
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
