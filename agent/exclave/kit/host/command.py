"""Runs a program to its end, with its output in memory. Only argument lists, no shell, no secret in arguments."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from exclave.errors import Fault, HostError
from exclave.kit.host.accepting import SHORTAGE_HINT, SHORTAGES
from exclave.kit.tasks.nursery import open_bare_nursery


@dataclass(frozen=True)
class Finished:
    """A finished program: exit status (negative: ended by that signal) and output."""

    status: int
    output: bytes
    errors: str

    @property
    def first_error(self) -> str:
        """The first line of its errors, for a message to a person."""
        return (self.errors.splitlines() or ["no message"])[0]


async def run_command(
    arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = 30.0, environment: Mapping[str, str] | None = None
) -> Finished:
    """Run a program to its end. Raises FileNotFoundError if it is missing, trio.TooSlowError after `timeout` s."""
    # The nursery unwraps the group in which trio 0.22's run_process raises FileNotFoundError.
    with trio.fail_after(timeout):
        async with open_bare_nursery():
            done = await trio.run_process(
                list(arguments),
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=None if environment is None else dict(environment),
            )
    assert isinstance(done, subprocess.CompletedProcess)
    return Finished(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace").strip())


_TOOLS = {
    "nft": ("nftables", "see what holds the kernel's tables: nft monitor"),
    "ip": ("iproute2", "see what holds the kernel's links: ip monitor"),
}
"""Debian's package of each program that configures the kernel, and what to do when it hangs."""


async def run_tool(program: str, *arguments: str, stdin: bytes = b"") -> Finished:
    """Run nft or ip for at most 30 s. Raises HostError if it is missing, hangs or is killed."""
    try:
        done = await run_command([program, *arguments], stdin=stdin)
    except OSError as problem:
        raise missing_tool(program, problem) from None
    except trio.TooSlowError:
        text = f"the program {program} did not end within 30 s"
        raise HostError(Fault.TOOL_HANGS, text, _TOOLS[program][1]) from None
    if done.status < 0:  # without this, it would pass for a kernel that refuses
        text = f"the program {program} was killed by signal {-done.status}"
        raise HostError(Fault.TOOL_HANGS, text, "see by whom: journalctl --dmesg")
    return done


def check_permitted(done: Finished, doing: str) -> None:
    """Raise HostError if the kernel did not permit `doing`."""
    if "not permitted" in done.errors:
        raise HostError(Fault.NO_PRIVILEGE, f"{doing} is not permitted", "run as root, with the capability NET_ADMIN")


def without_json(message: str) -> HostError:
    """The error for an nft whose JSON cannot be read."""
    return HostError(Fault.NFT_UNUSABLE, message, "exclave needs nftables 0.9.3 or newer, with JSON")


def missing_tool(program: str, problem: OSError) -> HostError:
    """The error for an nft or ip that cannot be started."""
    if problem.errno in SHORTAGES:
        text = f"the program {program} cannot be run now: {problem.strerror}"
        return HostError(Fault.NFT_UNUSABLE, text, SHORTAGE_HINT)
    text = f"the program {program} cannot be run: {problem.strerror}"
    return HostError(Fault.NFT_UNUSABLE, text, f"install it: apt install {_TOOLS[program][0]}")
