"""Releases as the tests make them: a checkout with a commit and a tag, and a key that is thrown away."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from architecture.tree import TOP
from exclave import __version__
from support.packages import nfpm_program

NO_LIBRARIES = 4
"""Exit status of packaging/release without a package index."""

RELEASE_TOOLS = {
    "apt-ftparchive": "apt-utils",
    "createrepo_c": "createrepo-c",
    "git": "git",
    "gpg": "gnupg",
    "rpmsign": "rpm",
}
"""Programs that a release without an image needs, and their packages."""

IDENTITY = ("-c", "user.name=a test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main")


@contextmanager
def open_keyring(folder: Path) -> Iterator[Path]:
    """A GnuPG home. Its agent ends with it, so the home is short: a socket's name has at most 108 characters."""
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        subprocess.run(["gpgconf", "--homedir", folder, "--kill", "all"], check=True)


def make_key(
    home: Path, name: str, usage: str = "sign", expires: str = "never", passphrase: str = "", at: str = ""
) -> str:
    """Make a key in a GnuPG home, now or at another time. Returns its fingerprint."""
    command = ["gpg", "--batch", "--quiet", "--homedir", home, "--pinentry-mode", "loopback", "--passphrase-fd", "0"]
    command += ["--status-fd", "1", *(["--faked-system-time", f"{at}!"] if at else [])]
    command += ["--quick-generate-key", name, "ed25519", usage, expires]
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=passphrase)
    (fingerprint,) = [line.split()[-1] for line in done.stdout.splitlines() if " KEY_CREATED " in line]
    return fingerprint


def git(checkout: Path, *words: str) -> str:
    """What git answers in a checkout."""
    command = ["git", *IDENTITY, *words]
    return subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout


def make_checkout(folder: Path) -> Path:
    """A clean checkout of what is in this one, also of what is not committed, with a commit and the version's tag."""
    names = git(TOP, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    folder.mkdir()
    copied = subprocess.run(["tar", "-c", "--null", "--files-from=-", "--ignore-failed-read"], cwd=TOP,
                            input=names.encode(), stdout=subprocess.PIPE, check=True)  # fmt: skip
    subprocess.run(["tar", "-x"], cwd=folder, input=copied.stdout, check=True)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a release")
    git(folder, "tag", f"v{__version__}")
    return folder


def release(checkout: Path, home: Path, *words: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run packaging/release in a checkout, with the Python and the nfpm of this one."""
    command = [sys.executable, "-B", checkout / "packaging/release.py", *words]
    given = os.environ | {"NFPM": str(nfpm_program()), "GNUPGHOME": str(home)} | environment
    return subprocess.run(command, capture_output=True, text=True, env=given)


def sign_sums(folder: Path, home: Path, key: str) -> None:
    """Write SHA256SUMS of a folder, and its signature."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.suffix in (".deb", ".rpm"))
    listed = subprocess.run(["sha256sum", *names], cwd=folder, check=True, capture_output=True).stdout
    (folder / "SHA256SUMS").write_bytes(listed)
    command = ["gpg", "--batch", "--quiet", "--yes", "--homedir", home, "--local-user", key]
    subprocess.run([*command, "--armor", "--detach-sign", "SHA256SUMS"], cwd=folder, check=True)
