"""What this process, and the programs that it runs, must not inherit from whoever runs the command as root."""

import os
import resource
import stat
from collections.abc import MutableMapping
from pathlib import Path

STANDARD = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")  # Debian's order

LOCALE = "C.UTF-8"  # the texts of nft, ip and systemctl are read

_DROPPED = ("LANGUAGE", "LC_MESSAGES", "IFS", "ENV", "BASH_ENV")


def set_process(environment: MutableMapping[str, str]) -> None:
    """Set PATH, locale and the limit of core dumps, which would have keys and tokens in them.

    `environment`: that of this process, which its programs inherit.
    """
    environment["PATH"] = safe_path(environment.get("PATH", ""))
    environment["LC_ALL"] = LOCALE
    for name in [name for name in environment if name in _DROPPED or name.startswith("LD_")]:
        del environment[name]
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def safe_path(path: str) -> str:
    """The folders of a PATH that only root can change; without any, the standard ones.

    `su` leaves the user's PATH, which lacks the folders `sbin`: each follows its `bin`.
    """
    folders = [folder for folder in path.split(os.pathsep) if _is_safe(folder)] or list(STANDARD)
    for folder in ("/usr/bin", "/bin"):
        system = folder.replace("bin", "sbin")
        if folder in folders and system not in folders:
            folders.insert(folders.index(folder) + 1, system)
    return os.pathsep.join(dict.fromkeys(folders))


def _is_safe(folder: str) -> bool:
    """True if nobody but root, or the user of this process, can put a program there."""
    if not folder.startswith("/"):
        return False
    try:
        found = Path(folder).stat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid in (0, os.getuid())
        and not stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    )
