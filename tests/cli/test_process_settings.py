"""What a command of root does not inherit."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.cli.process_settings import STANDARD, safe_path, set_process


@pytest.fixture
def _core_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def test_folders_that_others_can_change_are_no_longer_searched(tmp_path: Path) -> None:
    good, of_all, of_group, file = (tmp_path / name for name in ("good", "of_all", "of_group", "file"))
    for folder, mode in ((good, 0o755), (of_all, 0o777), (of_group, 0o775)):
        folder.mkdir()
        folder.chmod(mode)
    file.touch()
    searched = [".", "", "bin", str(of_all), str(of_group), str(file), "/nowhere", str(good), "/usr/sbin"]
    assert safe_path(os.pathsep.join(searched)) == f"{good}:/usr/sbin"


@pytest.mark.parametrize("path", ["", ".", "/nowhere"])
def test_without_any_folder_the_standard_ones_are_searched(path: str) -> None:
    assert safe_path(path) == ":".join(STANDARD)


def test_after_su_the_folders_for_system_programs_are_there() -> None:
    assert safe_path("/usr/bin:/bin") == "/usr/bin:/usr/sbin:/bin:/sbin"


@pytest.mark.usefixtures("_core_limit")
def test_libraries_and_languages_of_the_caller_reach_no_program() -> None:
    environment = {
        "LD_PRELOAD": "/tmp/x.so",
        "LD_LIBRARY_PATH": "/tmp",
        "LANGUAGE": "de",
        "BASH_ENV": "x",
        "HOME": "/root",
    }
    set_process(environment)
    assert environment == {"PATH": ":".join(STANDARD), "LC_ALL": "C.UTF-8", "HOME": "/root"}


def test_no_core_is_dumped_here_and_by_programs_that_are_run() -> None:
    imported = "import os; from exclave.cli.process_settings import set_process"
    program = f"{imported}; set_process(os.environ); os.system('ulimit -c')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
