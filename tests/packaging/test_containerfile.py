"""The container file of the controller, step by step, as far as possible without a container engine.

What it copies is copied into an empty folder, what it runs of Python is run there in an environment of its own, and the
entry point has to start with what has been installed and nothing else. Base images and Debian's packages are not tried.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.needs import need

TOP = Path(__file__).resolve().parents[2]
TEXT = (TOP / "packaging/container/Containerfile").read_text()
STEPS = [line.split(" ", 1) for line in TEXT.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
PREFIX = "/opt/exclave"
INDEX_IS_AWAY = ("Temporary failure in name resolution", "No matching distribution found", "Connection", "timed out")


def steps(kind: str) -> list[str]:
    return [text for word, text in STEPS if word == kind]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in place of the image, with the copied files and the installed packages."""
    image = tmp_path_factory.mktemp("image")
    source = image / "src"
    source.mkdir()
    for copied in steps("COPY"):
        if copied.startswith("--from="):
            continue
        *names, target = shlex.split(copied)
        for name in names:
            found = TOP / name
            if found.is_dir():
                shutil.copytree(found, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(found, source / target)
    (installing,) = [text for text in steps("RUN") if "pip install" in text]
    command = installing.replace(PREFIX, str(image / "exclave"))
    command = command.replace("--no-cache-dir", "--disable-pip-version-check")  # fetched once a machine, not once a run
    command = re.sub(r"^python ", lambda _: f"{shlex.quote(sys.executable)} ", command)
    done = subprocess.run(["sh", "-c", command], cwd=source, capture_output=True, text=True)
    is_away = done.returncode != 0 and any(sign in done.stderr for sign in INDEX_IS_AWAY)
    need(not is_away, f"pip found nothing to install from: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return image


def test_the_entry_point_starts_with_what_was_installed(built: Path) -> None:
    (entry,) = steps("ENTRYPOINT")
    program, *arguments = json.loads(entry)
    assert program.startswith(f"{PREFIX}/")
    command = [program.replace(PREFIX, str(built / "exclave")), *arguments, "--help"]
    done = subprocess.run(command, cwd=built, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert "--linkerd-namespace" in done.stdout


POLICIES = "from exclave.api.definitions.manifests import admission_objects; print(len(admission_objects('exclave')))"


def test_everything_that_the_controller_imports_or_reads_is_there(built: Path) -> None:
    """`--help` imports little; a controller that leads imports all of it, and reads the policies from a file."""
    python = built / "exclave" / "bin" / "python"
    names = "exclave.controller.replica, exclave.controller.run, exclave.controller.telemetry.metrics"
    done = subprocess.run(
        [python, "-I", "-c", f"import {names}; print(exclave.__file__); {POLICIES}"],
        cwd=built,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(built)), "it is the installed one, not the checkout's"
    assert done.stdout.split()[-1] == "4"


def test_it_runs_as_the_one_whom_the_deployment_names() -> None:
    from exclave.admin.objects import METRICS_PORT, NOBODY

    assert steps("USER") == [f"{NOBODY}:{NOBODY}"]
    assert METRICS_PORT > 1023, "nobody may listen there without a right"


def test_what_the_first_stage_makes_is_what_the_second_takes() -> None:
    (taken,) = [text for text in steps("COPY") if text.startswith("--from=build ")]
    assert shlex.split(taken)[1:] == [PREFIX, PREFIX]
    first, second = steps("FROM")
    assert first == f"{second} AS build", "a virtual environment works with the very Python that made it"
