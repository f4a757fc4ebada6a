"""Checks the proxy's file, user and version, and whether the file is still the one that runs.

linkerd2-proxy has no `--version`. It logs its version first, and without any configuration ends with status 64.
Source: linkerd2-proxy, linkerd2-proxy/src/main.rs: `{profile} {version} ({sha}) by {vendor} on {date}`.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import trio

from exclave.errors import Fault, HostError
from exclave.kit.host.accounts import LOOKUP_TIME, find_user
from exclave.kit.host.command import Finished, run_command

GREETING_TIME = 30.0  # seconds in which a proxy must log its version and end, also on a busy machine
GREETING_ENVIRONMENT = {"LINKERD2_PROXY_LOG": "info"}

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_GREETING = re.compile(r"linkerd2_proxy: \S+ v?(\d+\.\d+\.\d+[^\s(]*) \(")
_NO_CONFIGURATION = 64  # EX_USAGE, linkerd2-proxy's exit status

_WRONG_SERVICE = "asks the Workload API for a service name that no server has, and so never gets a certificate"
REFUSED = {"2.329.0": _WRONG_SERVICE, "2.330.0": _WRONG_SERVICE}  # versions that cannot work here, with the reason

REMEDY = "use v2.331.0 or later, or v2.328.0 or earlier"

SETTLING = 3.0  # seconds without a change after which another binary counts: before, it may be half-written

CHUNK = 1024 * 1024


@dataclass(frozen=True)
class BinaryId:
    """A binary. `stamp` is `device:inode:size:mtime` of its file, `digest` identifies its content."""

    stamp: str
    digest: str


@dataclass(frozen=True)
class ProxyUser:
    """The user of the proxy's processes."""

    name: str
    uid: int
    gid: int


def unusable(message: str, hint: str) -> HostError:
    """The error for a proxy that cannot be run."""
    return HostError(Fault.PROXY_UNUSABLE, message, hint)


def read_version(greeting: str) -> str | None:
    """The version, such as `2.331.0`, in the proxy's output; None without one."""
    found = _GREETING.search(greeting)
    return found[1] if found else None


def version_problem(version: str | None) -> str | None:
    """The reason why this version cannot be used; None if it can, or if it is unknown."""
    return REFUSED.get(version or "")


async def find_proxy_user(name: str) -> ProxyUser:
    """The user with this name or number. Raises HostError if there is none, or if it is root."""
    try:
        found = await find_user(name)
    except trio.TooSlowError:
        raise unusable(
            f"the name service did not answer within {LOOKUP_TIME:.0f} s who {name} is, the proxy's user",
            f"see why: getent passwd {name}; or name a user of this machine's own: [proxy] user",
        ) from None
    if found is None:
        raise unusable(
            f"there is no user {name} for the proxy to run as",
            f"useradd --system --no-create-home --shell /usr/sbin/nologin {name}; or name another: [proxy] user",
        )
    if found.uid == 0:
        raise unusable(
            "the proxy cannot run as root: the rules recognise its own traffic by its user",
            "name another user in config.toml: [proxy] user",
        )
    return ProxyUser(found.name, found.uid, found.gid)


def setpriv_command(user: ProxyUser) -> list[str]:
    """The start of a command line that runs the rest as this user, without groups, capabilities or ways to gain any."""
    return [
        "setpriv",
        f"--reuid={user.uid}",
        f"--regid={user.gid}",
        "--clear-groups",
        "--no-new-privs",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--bounding-set=-all",
        "--",
    ]


async def check_binary(binary: Path, user: ProxyUser) -> str | None:
    """The version of the proxy at `binary`, None if it prints none. Raises HostError if it cannot be used."""
    check_file(binary)
    try:
        greeted = await run_command(
            [*setpriv_command(user), str(binary)],
            timeout=GREETING_TIME,
            environment={**GREETING_ENVIRONMENT, "PATH": SEARCH_PATH},
        )
    except FileNotFoundError:
        raise unusable("the program setpriv is not installed", "install it: apt install util-linux") from None
    except trio.TooSlowError:
        raise endless(binary) from None
    return check_greeting(binary, user, greeted)


def check_file(binary: Path) -> None:
    """Raise HostError if there is no file."""
    if not binary.is_file():
        raise unusable(
            f"there is no proxy at {binary}",
            "install it: exclave proxy install; or set its path in config.toml: [proxy] binary",
        )


def check_greeting(binary: Path, user: ProxyUser, greeted: Finished) -> str | None:
    """The version in a greeting, None without one. Raises HostError if it is no proxy's, or of a refused version."""
    version = read_version(greeted.output.decode("utf-8", "replace"))
    if version is None and greeted.status != _NO_CONFIGURATION:
        # A shell reads a binary for another kind of machine; its message names the cause.
        message = next(iter(greeted.errors.splitlines()[-1:]), "it printed nothing")
        raise unusable(
            f"{binary}, run by {user.name} without a configuration, ended with status {greeted.status}: {message}",
            "linkerd2-proxy was expected there, built for this kind of machine; that user must be able to read and "
            "execute it (chmod 0755), and to pass the folders above it",
        )
    reason = version_problem(version)
    if reason is not None:
        raise unusable(f"the proxy at {binary} is v{version}, which {reason}", REMEDY)
    return version


def endless(binary: Path) -> HostError:
    """The error for a program that did not end."""
    return unusable(
        f"{binary} was run without a configuration and did not end within {GREETING_TIME:.0f} s",
        "linkerd2-proxy was expected there: see config.toml, [proxy] binary",
    )


async def identify_binary(path: Path, *former: BinaryId | None) -> BinaryId | None:
    """The identity of the binary at `path`; None without a file.

    Its content is read only if no binary in `former` has its stamp. The content decides: a package that is installed
    again has another stamp and the same content.
    """
    try:
        stamp = stamp_of(path)
        for one in former:
            if one is not None and one.stamp == stamp:
                return one
        return BinaryId(stamp, await trio.to_thread.run_sync(_digest, path))
    except OSError:
        return None


class BinaryWatch:
    """Polls the binary at one path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: BinaryId | None = None
        self._since = 0.0

    async def poll(self, running: BinaryId | None) -> BinaryId | None:
        """The binary on disk if it is another one and has settled, else the running one."""
        found, now = await identify_binary(self._path, running, self._newest), trio.current_time()
        if found != self._newest:
            self._newest, self._since = found, now
        return found if found is not None and now - self._since >= SETTLING else running


def stamp_of(path: Path) -> str:
    """`device:inode:size:mtime` of a file. Raises OSError."""
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:16]
