"""The life of units, as a list of observations on standard output.

python unit_life.py RUNTIME FOLDER: the unit reads its environment from RUNTIME; programs are written to FOLDER.
"""

import json
import os
import signal
import sys
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from exclave.errors import HostError
from exclave.proxy.process import systemd
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.held import end_process
from exclave.proxy.process.units import UnitProcess, Units, find_process, remove_unit_files, stop_all

RUNTIME, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
UNIT = "exclave-proxy@a.service"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB+/==\n-----END CERTIFICATE-----\n"
ENVIRONMENT = {
    "LINKERD2_PROXY_PEM": PEM,
    "LINKERD2_PROXY_ODD": " \"$HOME\" `id` \\ \\n '%i' # ; é ",
    "LINKERD2_PROXY_NONE": "",
}
SLEEPER = "exec sleep 600"
GO = FOLDER / "go"
HELD = f"until [ -e {GO} ]; do sleep 0.02; done"  # until the agent holds the process
PRINTED = f"while [ -e {GO} ]; do sleep 0.02; done"  # a journal that is late does not know whose a line was
PRINT = "env -0 | grep -z ^LINKERD2 | sort -z | base64 -w0"

units = Units(RUNTIME, ProxyUser("exclave-proxy", 997, 997))
observations: list[tuple[str, Any]] = []


def observe(what: str, value: Any) -> None:
    observations.append((what, value))


def program(name: str, line: str) -> Path:
    path = FOLDER / name
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


async def failure(work: Any) -> str:
    try:
        await work
    except HostError as problem:
        return f"{problem.message} ({problem.hint})".replace(str(FOLDER), "FOLDER")
    return "no failure"


@asynccontextmanager
async def started(line: str) -> AsyncIterator[UnitProcess]:
    GO.unlink(missing_ok=True)
    process = await units.start("a", program("proxy", line), ENVIRONMENT)
    GO.touch(0o644)
    try:
        yield process
    finally:
        process.close()


async def state(unit: str = UNIT) -> dict[str, Any]:
    found = await systemd.show_unit(unit)
    return {"installed": found.is_installed, "active": found.active, "has pid": found.pid > 0, "result": found.result}


async def start_and_end() -> None:
    observe("a unit that never ran", await state())
    observe("a unit that is not installed", await state("exclave-absent@a.service"))
    observe("nothing runs", await find_process("a") is None)
    async with started(SLEEPER) as process:
        observe("it runs", await state())
        again = await find_process("a")
        assert again is not None
        observe("it is found", (again.pid, again.invocation) == (process.pid, process.invocation))
        again.close()
        await process.send(signal.SIGTERM)
        observe("after SIGTERM", await process.wait())
        observe("a signal after its end", await systemd.signal_unit(UNIT, signal.SIGTERM))
    async with started("trap '' TERM; echo deaf; while :; do sleep 0.05; done") as process:
        await end_process(process, 0.2)
        observe("one that ignores SIGTERM", await process.wait())
    observe("its unit counts as stopped", await state())


async def end_printed(process: UnitProcess, line: str) -> None:
    """Let a program end once its last line is in the journal."""
    while await systemd.read_output(process.invocation, 1) != f"{line}\n":  # noqa: ASYNC110  the journal has no events
        await trio.sleep(0.05)
    GO.unlink()


async def ends_of_its_own() -> None:
    async with started(f"{HELD}; {PRINT}; exit 7") as process:
        await process.wait()
        printed = b64decode(await systemd.read_output(process.invocation, 1)).decode().split("\0")[:-1]
        observe("its environment is exact", dict(one.split("=", 1) for one in printed) == ENVIRONMENT)
    async with started(f"{HELD}; echo first; echo boom >&2; {PRINTED}; exit 3") as process:
        await end_printed(process, "boom")
        observe("a failure with its last line", await process.wait())
    async with started(f"{HELD}; echo done; {PRINTED}") as process:
        await end_printed(process, "done")
        observe("a good end", await process.wait())
    async with started(f"{HELD}; kill -SEGV $$") as process:
        observe("a crash", await process.wait())
    observe("no failed unit stays", await state())


async def interference() -> None:
    async with started(SLEEPER) as process:
        await systemd.start_unit(UNIT)
        observe("somebody restarted it", await process.wait())
    await units.end_others([])
    observe("the other one is ended", await find_process("a") is None)
    async with started(SLEEPER) as process:
        await stop_all()
        observe("somebody stopped it", await process.wait())


async def failures() -> None:
    (RUNTIME / "proxy-a.env").unlink()
    observe("no environment file", await failure(systemd.start_unit(UNIT)))
    await stop_all()
    observe("no program", await failure(units.start("a", FOLDER / "absent", {})))
    await units.undo("a")
    observe("an unknown unit", await failure(systemd.start_unit("exclave-absent@a.service")))


async def check() -> None:
    greeting = "INFO linkerd2_proxy: release 2.366.0 () by  on 2026-11-30T10:01:02Z"
    observe(
        "the version",
        await units.check(program("proxy", f"echo '{greeting}'; echo Invalid configuration >&2; exit 64")),
    )
    observe("another program", await failure(units.check(program("other", "echo hello; exit 1"))))
    observe("no file", await failure(units.check(FOLDER / "absent")))
    observe(
        "the check leaves nothing", (await state("exclave-proxy@check.service"), (RUNTIME / "proxy-check.env").exists())
    )


async def main() -> None:
    units.write_etc("169.254.77.3")
    for part in (start_and_end, ends_of_its_own, interference, failures, check):
        await part()
    remove_unit_files(RUNTIME)
    observe("no file stays", sorted(path.name for path in RUNTIME.iterdir() if path.name.startswith("proxy")))


os.umask(0o077)
trio.run(main, strict_exception_groups=True)
print("\n".join(json.dumps(one, ensure_ascii=False) for one in observations))
