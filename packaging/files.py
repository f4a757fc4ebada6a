"""The files of each package, as they lie on a machine."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

from exclave.cli.config_text import example_config, man_page
from modules import needed_files

PACKAGING = Path(__file__).resolve().parent
TOP = PACKAGING.parent
SOURCE = TOP / "agent"


def stage_agent(root: Path) -> None:
    """The package exclave."""
    without = ("exclave.admin", "exclave.controller")
    copy_code(root / "usr/lib/exclave", needed_files(SOURCE, "exclave.cli.main", without=without))
    copy(PACKAGING / "launchers/exclave", root / "usr/bin/exclave", 0o755)
    for unit in sorted([*(TOP / "systemd").glob("*.service"), *(TOP / "systemd").glob("*.target")]):
        copy(unit, root / "usr/lib/systemd/system" / unit.name)
    copy(TOP / "systemd/exclave.sysusers", root / "usr/lib/sysusers.d/exclave.conf")
    copy(TOP / "systemd/exclave.tmpfiles", root / "usr/lib/tmpfiles.d/exclave.conf")
    copy(TOP / "systemd/exclave.preset", root / "usr/lib/systemd/system-preset/90-exclave.preset")
    write(root / "etc/exclave/config.toml", example_config())
    write_compressed(root / "usr/share/man/man5/exclave-config.5.gz", man_page())
    stage_documents(root, "exclave")
    copy(PACKAGING / "deb/rtupdate", root / "usr/share/python3/runtime.d/exclave.rtupdate", 0o755)


def stage_documents(root: Path, package: str) -> None:
    """What Debian asks of every package: copyright and changelog."""
    documents = root / "usr/share/doc" / package
    copy(PACKAGING / "copyright", documents / "copyright")
    write_compressed(documents / "changelog.Debian.gz", (PACKAGING / "changelog").read_text(encoding="utf-8"))


def copy_code(folder: Path, files: list[Path]) -> None:
    """Copy files below SOURCE into `folder`, in the same order of folders."""
    for path in files:
        copy(path, folder / path.relative_to(SOURCE))


def copy(source: Path, target: Path, mode: int = 0o644) -> None:
    """Copy one file, with this mode."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def write(target: Path, text: str) -> None:
    """Write one text file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def write_compressed(target: Path, text: str) -> None:
    """Write one text file by gzip, without a name and a time in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


STAGES: dict[str, Callable[[Path], None]] = {"exclave": stage_agent}
