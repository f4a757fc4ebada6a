"""Says once, and aloud, which real servers the tests of this folder do without."""

import pytest

from peers.kubernetes import AVAILABLE, RELEASES, cache
from support.needs import need


@pytest.mark.parametrize("release", RELEASES)
def test_a_real_kubernetes_is_there(release: str) -> None:
    build = ".venv/bin/python tests/peers/building.py"
    need(release in AVAILABLE, f"Kubernetes {release} is not in {cache()}; to build it: {build}")
    assert (cache() / RELEASES[release] / "kube-apiserver").is_file()
