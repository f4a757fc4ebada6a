"""A machine with systemd, as far as the agent uses it: programs on PATH that behave as systemctl and journalctl."""

import json
import os
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("systemctl.py")


class FakeSystemd:
    """The programs' settings and what was run."""

    def __init__(self, folder: Path, runtime: Path, user: str) -> None:
        self.folder = folder
        self.runtime = runtime
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "FAKE_SYSTEMD": str(folder),
            "FAKE_RUNTIME": str(runtime),
        }
        self.install(user=user)
        (folder / "bin").mkdir()
        for name in ("systemctl", "journalctl"):
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -ISE {PROGRAM} "$@"\n')
            program.chmod(0o755)

    def install(self, *, installed: bool = True, user: str = "nobody", memory_max: str = "1610612736") -> None:
        """Set what the unit's file contains."""
        settings = {"installed": installed, "user": user, "memory_max": memory_max}
        (self.folder / "units.json").write_text(json.dumps(settings))

    @property
    def commands(self) -> list[str]:
        """The command lines so far."""
        path = self.folder / "commands"
        return path.read_text().splitlines() if path.exists() else []


def fake_systemd(folder: Path, monkeypatch: pytest.MonkeyPatch, user: str = "nobody") -> FakeSystemd:
    """A machine in `folder`; its runtime folder is `folder/run`."""
    (folder / "run").mkdir()
    (folder / "systemd").mkdir()
    made = FakeSystemd(folder / "systemd", folder / "run", user)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made
