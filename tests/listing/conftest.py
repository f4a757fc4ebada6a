"""What several test modules of this folder need."""

from pathlib import Path
from typing import Any

import pytest
import trio.testing

from listing.data_path_world import World


@pytest.fixture
def world(tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**group: Any) -> World:
        made = World(tmp_path, **group)
        monkeypatch.setattr("exclave.listing.probes.try_tcp", made.try_tcp)
        return made

    return make
