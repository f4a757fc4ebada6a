"""Run a program to its end, with its output in memory.

Rules: argument lists only, no shell; nothing secret in arguments; a program that outlives its time is killed.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from exclave.kit.tasks.nursery import open_bare_nursery


@dataclass(frozen=True)
class Finished:
    """A program that has ended: exit status (negative: killed by that signal) and what it printed."""

    status: int
    output: bytes
    errors: str


async def run_command(
    arguments: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float = 30.0,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run `arguments[0]` with the rest; return when it has ended.

    Raises FileNotFoundError if there is no such program, trio.TooSlowError after `timeout` seconds.
    """
    # The nursery is there for what trio 0.22's run_process raises: FileNotFoundError in a group.
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
