"""Whether there is a proxy that can be run: its file, its user, its version.

Rules: everything that would keep it from starting is found before anything depends on it, and said once, with what to
do. The version is the binary's own word: it is run as its user, with an empty environment, in which it greets and ends
with status 64. Whatever neither greets nor ends so is no proxy: a program for another kind of machine comes to be read
by a shell, whose words are then told.
"""

import pwd
from dataclasses import dataclass
from pathlib import Path

import trio

from exclave.errors import Fault, HostError
from exclave.kit.host.command import run_command
from exclave.proxy.process.version import REMEDY, read_version, why_refused

GREETING_TIME = 10.0
"""Seconds that a proxy may take to greet and end."""

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_NO_CONFIGURATION = 64  # EX_USAGE, linkerd2-proxy's exit status


@dataclass(frozen=True)
class ProxyUser:
    """Who the proxy runs as."""

    name: str
    uid: int
    gid: int


def find_user(name: str) -> ProxyUser:
    """The user called `name`, or with that number. Raises HostError if there is none, or if it is root."""
    try:
        found = pwd.getpwuid(int(name)) if name.isascii() and name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise HostError(
            Fault.PROXY_UNUSABLE,
            f"there is no user {name} for the proxy to run as",
            f"useradd --system --no-create-home --shell /usr/sbin/nologin {name}; or name another: [proxy] user",
        ) from None
    if found.pw_uid == 0:
        raise HostError(
            Fault.PROXY_UNUSABLE,
            "the proxy cannot run as root: its own traffic is told from others' by its user",
            "name a user of its own in config.toml: [proxy] user",
        )
    return ProxyUser(found.pw_name, found.pw_uid, found.pw_gid)


def setpriv_command(user: ProxyUser) -> list[str]:
    """The words before a command that make it that user's, without groups, capabilities or ways to gain any."""
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
    """The version of the proxy at `binary`, None if it does not say. Raises HostError if it cannot be used."""
    if not binary.is_file():
        raise HostError(
            Fault.PROXY_UNUSABLE,
            f"there is no proxy at {binary}",
            "install linkerd2-proxy there, or say where it is in config.toml: [proxy] binary",
        )
    try:
        greeted = await run_command(
            [*setpriv_command(user), str(binary)],
            timeout=GREETING_TIME,
            environment={"LINKERD2_PROXY_LOG": "info", "PATH": SEARCH_PATH},
        )
    except FileNotFoundError:
        raise HostError(
            Fault.PROXY_UNUSABLE, "the program setpriv is not installed", "install it: apt install util-linux"
        ) from None
    except trio.TooSlowError:
        raise HostError(
            Fault.PROXY_UNUSABLE,
            f"{binary} was run without a configuration and did not end within {GREETING_TIME:.0f} s",
            "linkerd2-proxy was expected there: see config.toml, [proxy] binary",
        ) from None
    version = read_version(greeted.output.decode("utf-8", "replace"))
    if version is None and greeted.status != _NO_CONFIGURATION:
        words = greeted.errors.splitlines()[-1:] or ["it said nothing"]
        raise HostError(
            Fault.PROXY_UNUSABLE,
            f"{binary}, run by {user.name} without a configuration, ended with status {greeted.status}: {words[0]}",
            "linkerd2-proxy was expected there, built for this kind of machine; that user must be able to read and "
            "execute it (chmod 0755), and to pass the folders above it",
        )
    reason = why_refused(version)
    if reason is not None:
        raise HostError(Fault.PROXY_UNUSABLE, f"the proxy at {binary} is v{version}, which {reason}", REMEDY)
    return version
