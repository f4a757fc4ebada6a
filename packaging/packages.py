"""Builds the packages: makes a folder with the files of a package, then lets nfpm pack it.

The bytes depend on the checkout alone: every file gets its mode from here and its time from the changelog.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGING = Path(__file__).resolve().parent
TOP = PACKAGING.parent
sys.path[:0] = [str(PACKAGING), str(TOP / "agent")]

import exclave  # noqa: E402
from changelog import read_changelog  # noqa: E402
from files import stage  # noqa: E402
from metadata import TARGETS, Target, configuration  # noqa: E402
from vendor import CannotFetch  # noqa: E402

SYSTEMS = ("deb", "fedora", "el")

CREATED = "created package: "  # what nfpm prints


def package_version(version: str) -> str:
    """The packages' version for a version of PEP 440: a pre-release sorts before its release. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)*)(?:(a|b|rc)(\d+))?(?:\.post(\d+))?(?:\.dev(\d+))?", version)
    if match is None:
        raise ValueError(f"a version such as 1.2.3, 1.2.3rc1 or 1.2.3.dev4 is needed, not {version!r}")
    release, phase, number, post, dev = match.groups()
    text = release + (f"~{phase}{number}" if phase else "")
    before = "~" if phase or post else "~~"  # 1.2.dev3 comes before 1.2a1
    return text + (f".post{post}" if post else "") + (f"{before}dev{dev}" if dev else "")


def build(folder: Path, systems: tuple[str, ...]) -> list[Path]:
    """Build into `folder`. Returns the packages. Raises ValueError, CannotFetch."""
    version = package_version(exclave.__version__)
    entry = read_changelog(PACKAGING / "changelog")
    if entry.version != f"{version}-1":
        raise ValueError(f"packaging/changelog begins with {entry.version}, but this is version {version}-1")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for target in TARGETS:
        if target.system in systems:
            with tempfile.TemporaryDirectory(prefix="exclave-package.") as temporary:
                root = Path(temporary) / "root"
                root.mkdir()
                stage(target, root, entry)
                set_modes_and_times(root, entry.date)
                config = Path(temporary) / "nfpm.json"
                config.write_text(json.dumps(configuration(target, root, version, entry)))
                made.append(pack(config, folder.resolve(), target, entry.date))
    return made


def set_modes_and_times(root: Path, date: int) -> None:
    """Files 0644, or 0755 where the owner may execute them; folders 0755. One time for all."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (date, date), follow_symlinks=False)


def pack(config: Path, folder: Path, target: Target, date: int) -> Path:
    """Run nfpm. Returns the package."""
    command = [
        os.environ["NFPM"],
        "package",
        "--config",
        str(config),
        "--packager",
        target.kind,
        "--target",
        f"{folder}/",
    ]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(date)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    made = [line for line in done.stdout.splitlines() if line.startswith(CREATED)]
    if done.returncode != 0 or not made:
        raise ValueError(f"nfpm: {done.stdout}{done.stderr}")
    return Path(made[0].removeprefix(CREATED))


def main(words: list[str]) -> int:
    """Run with these arguments. Returns the exit code."""
    if not words or any(word not in SYSTEMS for word in words[1:]):
        print("usage: packaging/build FOLDER [deb|fedora|el ...]", file=sys.stderr)
        return 2
    try:
        for path in build(Path(words[0]), tuple(words[1:]) or SYSTEMS):
            print(path)
    except (ValueError, CannotFetch) as problem:
        print(f"packaging/build: {problem}", file=sys.stderr)
        return 4 if isinstance(problem, CannotFetch) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
