"""Making a proxy's process, with the real util-linux: what it becomes, and what an agent's death makes of it."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from exclave.errors import Fault, HostError
from exclave.kit.host.gated import HeldProcess
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.spawn import Program, launch

from ..lab import GID, UID, USER, open_folder, write_script

PR_SET_CHILD_SUBREAPER = 36

AGENTS_DEATH = """
import os, signal, sys
from pathlib import Path
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.spawn import Program, launch

binary, resolv_conf, output, when = sys.argv[1:]
gated = launch(Program(Path(binary), ProxyUser("nobody", 65534, 65534), {}, Path(resolv_conf), Path(output)))
if when == "after":
    gated.open_gate()
print(gated.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


def program(folder: Path, *lines: str, **environment: str) -> Program:
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text("nameserver 169.254.77.3\n")
    binary = write_script(folder / "proxy", *lines)
    return Program(binary, ProxyUser(USER, UID, GID), environment, resolv_conf, folder / "output.log")


async def run(asked: Program) -> int | None:
    gated = launch(asked)
    gated.open_gate()
    try:
        return await gated.process.wait()
    finally:
        gated.process.close()


async def test_one_pid_all_the_way_in_a_session_of_its_own(folder: Path) -> None:
    asked = program(folder, "echo $$; cut -d' ' -f6 /proc/$$/stat; readlink /proc/$$/cwd")
    gated = launch(asked)
    gated.open_gate()
    assert await gated.process.wait() == 0
    gated.process.close()
    assert asked.output.read_text().split() == [str(gated.process.pid), str(gated.process.pid), "/"]


async def test_it_sees_its_environment_and_nothing_of_the_agents(folder: Path) -> None:
    os.environ["EXCLAVE_TEST_LEAK"] = "1"
    try:
        asked = program(folder, "tr '\\0' '\\n' </proc/$$/environ", LINKERD2_PROXY_LOG="info")
        await run(asked)
    finally:
        del os.environ["EXCLAVE_TEST_LEAK"]
    told = dict(line.split("=", 1) for line in asked.output.read_text().splitlines())
    # PWD, OLDPWD and SHLVL are the shells', which stand before it or are this stand-in.
    assert set(told) - {"PWD", "OLDPWD", "SHLVL", "_"} == {"LINKERD2_PROXY_LOG", "PATH"}
    assert told["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin"


async def test_it_reads_nothing_ignores_no_signal_and_holds_no_file_of_the_agents(folder: Path) -> None:
    asked = program(folder, "grep SigIgn /proc/$$/status; for f in /proc/$$/fd/*; do readlink $f; done")
    with (folder / "secret").open("w"):
        await run(asked)
    ignored, *files = asked.output.read_text().splitlines()
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0
    own = {"/dev/null", str(asked.output), str(asked.binary)}
    assert own <= set(files) <= own | inherited_here()


async def test_it_cannot_come_back_to_the_hosts_names_nor_gain_anything(folder: Path) -> None:
    asked = program(folder, "cat /etc/resolv.conf; umount /etc/resolv.conf 2>&1 || id -u")
    await run(asked)
    first, *_, last = asked.output.read_text().splitlines()
    assert (first, last) == ("nameserver 169.254.77.3", str(UID))


async def test_its_output_is_appended_and_readable_by_root_alone(folder: Path) -> None:
    asked = program(folder, "echo one; echo two >&2")
    os.umask(0o022)
    await run(asked)
    await run(asked)
    assert asked.output.read_text() == "one\ntwo\none\ntwo\n"
    assert asked.output.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("line", "status"), [("exit 0", 0), ("exit 64", 64), ("kill -SEGV $$", -11)])
async def test_how_it_ended_is_known(folder: Path, line: str, status: int) -> None:
    assert await run(program(folder, line)) == status


async def test_a_child_that_is_sent_away_at_its_gate_never_becomes_the_proxy(folder: Path) -> None:
    asked = program(folder, "echo here")
    gated = launch(asked)
    await gated.cancel()
    assert asked.output.read_text() == ""


async def test_opening_the_gate_of_one_that_has_ended_is_no_error(folder: Path) -> None:
    gated = launch(program(folder, "echo here"))
    gated.process.send(signal.SIGKILL)
    assert await gated.process.wait() == -9
    gated.open_gate()
    gated.process.send(signal.SIGTERM)  # it reaches nobody
    gated.process.close()


@pytest.mark.parametrize(("when", "words"), [("before", ""), ("after", "here\n")])
async def test_an_agent_killed_before_the_gate_leaves_nothing_and_after_it_a_proxy(
    folder: Path, when: str, words: str
) -> None:
    asked = program(folder, "echo here")
    with taking_in_orphans():
        agent = subprocess.run(
            [sys.executable, "-c", AGENTS_DEATH, asked.binary, asked.resolv_conf, asked.output, when],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "agent")},
        )
        assert agent.returncode == -signal.SIGKILL, agent.stderr
        pid = int(agent.stdout)
        left = HeldProcess(pid, os.pidfd_open(pid))
        assert await left.wait() == 0
        left.close()
    assert asked.output.read_text() == words


async def test_a_process_of_another_is_waited_for_without_its_status(folder: Path) -> None:
    started = await trio.to_thread.run_sync(
        lambda: subprocess.Popen(["unshare", "--fork", "sh", "-c", "echo $PPID $$; read -r _"], stdin=-1, stdout=-1)
    )
    assert started.stdout is not None
    _, pid = (int(word) for word in started.stdout.readline().split())
    grandchild = HeldProcess(pid, os.pidfd_open(pid))
    grandchild.send(signal.SIGTERM)
    assert await grandchild.wait() is None
    grandchild.close()
    started.communicate()


def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    asked = program(folder, "echo here")
    absent = Program(asked.binary, asked.user, {}, asked.resolv_conf, folder / "absent" / "output.log")
    with pytest.raises(HostError) as caught:
        launch(absent)
    assert caught.value.fault is Fault.PROXY_UNUSABLE
    assert str(caught.value.message) == "the proxy's process cannot be made: No such file or directory"
    assert caught.value.hint == (
        f"see whether {folder}/absent is writable, and whether this machine has room for processes"
    )


def test_what_is_handed_to_the_kernel_shows_no_secret_in_words(folder: Path) -> None:
    asked = program(folder, "echo here", LINKERD2_PROXY_X="hidden")
    assert "hidden" not in repr(asked)
    assert not any("hidden" in word for word in asked.command)


@contextmanager
def taking_in_orphans() -> Iterator[None]:
    """What a child leaves becomes ours, so that its end can be waited for; this process's alone, and not for long."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def inherited_here() -> set[str]:
    """What whoever started the tests has left open for every program below."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found
