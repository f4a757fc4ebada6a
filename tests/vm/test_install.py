"""The package is installed, and nothing else happens: an idle agent explains itself and changes nothing."""

import pytest

from support.figures import add_figure
from vm.lab import Installed

pytestmark = [pytest.mark.vm, pytest.mark.part, pytest.mark.timeout(1200)]

DOWNLOADED = 25_000_000  # bytes that an installation may download


def test_the_package_installs(installed: Installed) -> None:
    megabytes = f"{installed.downloaded / 1e6:.1f} MB downloaded, {installed.grown / 1e6:.1f} MB on the disk"
    add_figure(
        f"{installed.debian}: installed in {installed.seconds:.1f} s (from local archives): "
        f"{len(installed.added)} packages, {megabytes}"
    )
    assert "exclave" in installed.added
    assert installed.downloaded <= DOWNLOADED


def test_an_agent_that_has_not_joined_is_idle_and_says_so(installed: Installed) -> None:
    assert "Active: active (running)" in installed.status
    assert "exclave join" in installed.status, installed.status
    assert "exclave join" in installed.explained, installed.explained
