"""Says once, and aloud, which real servers the tests of this folder do without."""

import pytest

from peers.kubernetes import AVAILABLE, RELEASES, cache


@pytest.mark.parametrize("release", RELEASES)
def test_a_real_kubernetes_is_there(release: str) -> None:
    if release not in AVAILABLE:
        pytest.skip(f"Kubernetes {release} is not in {cache()}; to build it: .venv/bin/python tests/peers/building.py")
    assert (cache() / RELEASES[release] / "kube-apiserver").is_file()
