"""ruff and mypy, as tests: the run fails with their words."""

import subprocess
import sys

import pytest

from architecture.tree import TOP


@pytest.mark.parametrize(
    "arguments",
    [
        ("ruff", "check", "agent", "packaging", "tests"),
        ("ruff", "format", "--check", "agent", "packaging", "tests"),
        ("mypy",),
    ],
    ids=["ruff finds nothing", "ruff would format nothing", "mypy strict finds nothing"],
)
def test_linter(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
