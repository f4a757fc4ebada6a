"""Times as Kubernetes writes them."""

from exclave.kit.formats.rfc3339 import rfc3339, rfc3339_micro


def test_times_are_written_as_kubernetes_writes_them() -> None:
    assert rfc3339(1_700_000_000.9) == "2023-11-14T22:13:20Z"
    assert rfc3339_micro(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"
