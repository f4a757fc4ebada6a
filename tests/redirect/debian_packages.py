"""Debian packages unpacked into this user's cache, for programs that would start services if they were installed.

Nothing of the host's is touched: a package's files stand in a folder of their own, and no script of it is run.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from support.needs import need

CACHE = Path(os.environ.get("EXCLAVE_PACKAGES", "~/.cache/exclave/packages")).expanduser()


def unpacked(*packages: str) -> Path:
    """The folder that holds these packages' files, downloaded once."""
    folder = CACHE / hashlib.sha256(" ".join(packages).encode()).hexdigest()[:16]
    if not folder.exists():
        need(shutil.which("apt-get") is not None, f"{packages[0]} is taken from Debian's packages, by apt-get")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            got = subprocess.run(["apt-get", "download", *packages], cwd=made, capture_output=True, text=True)
            need(got.returncode == 0, f"{packages[0]} cannot be downloaded: {got.stderr.strip()}")
            for package in Path(made).glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, f"{made}/files"], check=True)
            Path(made, "files").rename(folder)
    return folder
