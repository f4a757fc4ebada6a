"""`exclave cleanup` where everything else is broken: rules, link and proxy go in each case, by the real command."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from exclave.ending import EndingSwitch
from exclave.link.link import open_link

from .lab import PROGRAMS, Lab, open_lab
from .policies import PLAIN


class Broken:
    """The configuration, the state folder and the runtime folder of a machine."""

    def __init__(self, folder: Path) -> None:
        self.config, self.state, self.runtime = folder / "config.toml", folder / "state", folder / "run"
        self.state.mkdir()
        self.runtime.mkdir()
        self.config.write_text(f'[paths]\nstate = "{self.state}"\nruntime = "{self.runtime}"\n[proxy]\ndrain = "5s"\n')

    def replace(self, path: Path, content: bytes | None) -> None:
        """Put a file in the place of whatever is there, or nothing."""
        subprocess.run(["rm", "-rf", path], check=True)
        if content is not None:
            path.write_bytes(content)


def damage_state(broken: Broken) -> None:
    for name in ("membership.json", "credential.json", "settings.json", "svid.json", "join.json"):
        (broken.state / name).write_bytes(b"{\xff")


ROWS: dict[str, tuple[Callable[[Broken], None], bool]] = {
    "nothing": (lambda broken: None, True),
    "a value in config.toml is wrong": (
        lambda broken: broken.replace(broken.config, broken.config.read_bytes() + b"binary = 7\n[colour]\n"),
        True,
    ),
    "the state is damaged": (damage_state, True),
    "the state is a file": (lambda broken: broken.replace(broken.state, b""), True),
    "the state folder is missing": (lambda broken: broken.replace(broken.state, None), True),
    "the proxies' record is damaged": (
        lambda broken: (broken.runtime / "instances.json").write_bytes(b"{") and None,
        False,
    ),
    "the runtime folder is missing": (lambda broken: broken.replace(broken.runtime, None), False),
    "the runtime folder is a file": (lambda broken: broken.replace(broken.runtime, b""), False),
}
"""What is broken, and whether the proxy's record can still be read."""


async def clean_up(lab: Lab, broken: Broken) -> tuple[int, list[str], str]:
    """The real command, inside of the machine."""
    command = (sys.executable, "-m", "exclave", "cleanup", "--json", "--config", str(broken.config))
    done = await lab.vm.run(*command)
    return done.status, json.loads(done.output).get("done", []), done.errors


async def test_rules_link_and_the_recorded_proxy_are_removed() -> None:
    """From the same start for each row, and twice, since everybody tries again."""
    async with open_lab() as lab:
        before = (
            await lab.nft("list", "ruleset"),
            await lab.vm.must("ip", "-brief", "address", "show", "scope", "global"),
        )
        for number, (what, (break_it, is_on_record)) in enumerate(ROWS.items()):
            folder = lab.network.scratch / f"row{number}"
            folder.mkdir()
            broken = Broken(folder)
            async with open_link(EndingSwitch()):
                await lab.load(PLAIN)
            process = lab.start(lab.vm, "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()")
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            await record(lab, broken, pid)
            break_it(broken)
            for attempt in range(2):
                status, done, errors = await clean_up(lab, broken)
                ended = [f"proxy process {pid} ended"] if is_on_record and attempt == 0 else []
                assert (status, done) == (0, [*ended, "rules removed", "link removed"]), f"{what}: {errors}"
            after = (
                await lab.nft("list", "ruleset"),
                await lab.vm.must("ip", "-brief", "address", "show", "scope", "global"),
            )
            assert after == before, what
            assert (process.poll() is None) != is_on_record, what


async def record(lab: Lab, broken: Broken, pid: int) -> None:
    """Record a process of the machine, from inside of it."""
    await lab.vm.must(sys.executable, str(PROGRAMS / "record_proxy.py"), str(broken.runtime), str(pid))


async def test_rules_are_removed_although_the_disk_is_read_only() -> None:
    async with open_lab() as lab:
        broken = Broken(lab.network.scratch)
        await lab.load(PLAIN)
        await lab.vm.must("mount", "-t", "tmpfs", "-o", "ro", "none", str(broken.runtime))
        status, done, errors = await clean_up(lab, broken)
        assert (status, done) == (0, ["rules removed", "link removed"])
        assert (
            f"cannot change the mode of folder {broken.runtime} to 755: Read-only file system; "
            "cleaning up without the lock"
        ) in errors
        assert await lab.nft("list", "tables") == ""


async def test_a_running_agent_is_reported_and_nothing_is_changed() -> None:
    async with open_lab() as lab:
        broken = Broken(lab.network.scratch)
        await lab.load(PLAIN)
        command = lab.vm.command(sys.executable, str(PROGRAMS / "hold_lock.py"), str(broken.runtime / "agent.lock"))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            assert agent.stdout.readline() == b"up\n"
            done = await lab.vm.run(sys.executable, "-m", "exclave", "cleanup", "--config", str(broken.config))
            agent.kill()
        assert done.status == 35
        assert "to do: stop it first, or leave with exclave leave" in done.errors
        assert "table inet exclave" in await lab.nft("list", "tables")
