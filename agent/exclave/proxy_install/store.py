"""The folder of the installed proxies: `<version>-<12 digits>/linkerd2-proxy` and `source.json` beside it.

The program that the agent runs is a symbolic link to one of them. The agent notices another one, and swaps.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from exclave.errors import Fault, HostError, UsageError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import write_atomic

PROGRAM, SOURCE = "linkerd2-proxy", "source.json"
PARTIAL = ".partial"  # folder of interrupted downloads
KEPT = 3  # proxies that stay: the one in use and those to go back to
CHUNK = 1024 * 1024


@dataclass(frozen=True)
class InstalledProxy:
    """A proxy. `sha256`: of its program, 64 hex digits. `source`: an image with its digest, a URL or a file."""

    version: str
    sha256: str
    source: str
    installed_at: str  # RFC 3339

    @property
    def name(self) -> str:
        """The name of its folder, such as `2.366.0-0a1b2c3d4e5f`."""
        return f"{self.version}-{self.sha256[:12]}"


class Store:
    """The installed proxies in `folder`; `link` is the path of the program that the agent runs."""

    def __init__(self, folder: Path, link: Path) -> None:
        self.folder = folder
        self.link = link

    def list(self) -> list[InstalledProxy]:
        """All installed proxies, the newest first. A folder that is not ours is left out."""
        found = []
        for path in self.folder.glob(f"*/{SOURCE}"):
            try:
                one = InstalledProxy(**{key: str(value) for key, value in parse_json(path.read_bytes()).items()})
            except (OSError, ValueError, TypeError, AttributeError):
                continue
            if one.name == path.parent.name and self.program(one).is_file():
                found.append(one)
        return sorted(found, key=lambda one: (one.installed_at, one.name), reverse=True)

    def program(self, proxy: InstalledProxy) -> Path:
        """The path of a proxy's program."""
        return self.folder / proxy.name / PROGRAM

    def used(self) -> InstalledProxy | None:
        """The proxy that the agent runs; None if that is no installed one."""
        target = Path(os.path.realpath(self.link))
        return next((one for one in self.list() if Path(os.path.realpath(self.program(one))) == target), None)

    def find(self, text: str) -> InstalledProxy:
        """The proxy with this name or version, or with a name that begins so. Raises UsageError."""
        installed = self.list()
        exact = [one for one in installed if text in (one.name, one.version)]
        found = exact or [one for one in installed if one.name.startswith(text)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(one.name for one in found or installed) or "none"
        problem = f"{text} names {len(found)} proxies" if found else f"there is no installed proxy {text}"
        raise UsageError(problem, f"name one of these: {names}")

    def new_folder(self) -> Path:
        """An empty folder for a proxy that is being installed; Raises HostError."""
        folder = self.folder / f".new-{secrets.token_hex(4)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            for one in (self.folder, folder):  # the proxy's user must pass, whatever the umask is
                one.chmod(0o755)
        except OSError as problem:
            raise _disk_error(folder, problem) from problem
        return folder

    def add(self, folder: Path, proxy: InstalledProxy) -> None:
        """Turn a folder with a program into an installed proxy. One that is there stays. Raises HostError."""
        target = self.folder / proxy.name
        write_atomic(folder / SOURCE, json.dumps(asdict(proxy), indent=2).encode(), 0o644)
        try:
            if target.is_dir():  # the same program: its newer source is the one to report
                (folder / SOURCE).replace(target / SOURCE)
                shutil.rmtree(folder)
            else:
                folder.rename(target)
        except OSError as problem:
            raise _disk_error(target, problem) from problem

    def use(self, proxy: InstalledProxy) -> None:
        """Make the link lead to a proxy. Raises HostError; a program that is not among the installed ones stays."""
        if os.path.lexists(self.link) and not self.link.is_symlink() and not self._is_copy(self.link):
            hint = f"add it to the installed ones first: exclave proxy install --file {self.link}; or move it away"
            raise HostError(Fault.OCCUPIED, f"{self.link} is a program that would be lost", hint)
        temporary = self.link.with_name(f".{self.link.name}.{secrets.token_hex(4)}")
        try:
            self.link.parent.mkdir(parents=True, exist_ok=True)
            temporary.symlink_to(self.program(proxy))
            temporary.replace(self.link)
        except OSError as problem:
            raise _disk_error(self.link, problem) from problem

    def _is_copy(self, path: Path) -> bool:
        return path.is_file() and sha256_of(path) in {one.sha256 for one in self.list()}

    def remove(self, proxy: InstalledProxy) -> None:
        """Remove a proxy. Raises UsageError if it is in use, HostError."""
        if self.used() == proxy:
            raise UsageError(f"{proxy.name} is in use", "use another one first: exclave proxy use VERSION")
        try:
            shutil.rmtree(self.folder / proxy.name)
        except OSError as problem:
            raise _disk_error(self.folder / proxy.name, problem) from problem

    def prune(self) -> Sequence[InstalledProxy]:
        """Remove the oldest proxies but `KEPT`, and what interrupted installations have left. Returns the removed."""
        for leftover in self.folder.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        used, installed = self.used(), self.list()
        others = [one for one in installed if one != used]
        removed = others[KEPT - (used is not None) :]
        for one in removed:
            self.remove(one)
        return removed


def sha256_of(path: Path) -> str:
    """The sha256 of a file, 64 hex digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _disk_error(path: Path, problem: OSError) -> HostError:
    hint = "free space, or make that folder writable for root; or choose other ones: [proxy] binary and store"
    return HostError(Fault.DISK, f"cannot write {path}: {problem.strerror}", hint)
