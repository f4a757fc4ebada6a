"""Launching the proxy's process: its environment; and, with the real util-linux, what the child may do."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exclave.config import ProxyConfig
from exclave.errors import Fault, HostError
from exclave.kit.host.gated import GatedProcess, HeldProcess
from exclave.kit.tasks.latest import Latest
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.launcher import ProxyLauncher, start_child
from support.mesh import ADDRESS, RECORD, make_settings

from ..lab import GID, UID, USER, open_folder, write_script


def launcher(folder: Path, *addresses: str) -> ProxyLauncher:
    membership: Any = SimpleNamespace(record=RECORD, captured=Latest(addresses))
    return ProxyLauncher(ProxyConfig(), ProxyUser("nobody", 65534, 65534), folder, membership, folder / "w.sock")


def test_the_wanted_environment_differs_by_instance_and_by_settings_of_the_proxy(tmp_path: Path) -> None:
    made, settings = launcher(tmp_path, ADDRESS), make_settings()
    assert made.wanted_digest(settings, "a") == made.wanted_digest(make_settings(), "a")
    assert made.wanted_digest(settings, "a") != made.wanted_digest(settings, "b")
    assert made.wanted_digest(settings, "a") != made.wanted_digest(make_settings(anchors="other"), "a")
    assert made.wanted_digest(settings, "a") == made.wanted_digest(make_settings(networks=("10.9.0.0/24",)), "a")


def test_without_an_address_there_is_no_environment(tmp_path: Path) -> None:
    assert launcher(tmp_path).wanted_digest(make_settings(), "a") is None
    with pytest.raises(HostError, match="no address to have in the mesh"):
        launcher(tmp_path).environment(make_settings(), "a")


def test_resolv_conf_is_readable_by_every_user_and_can_be_removed_repeatedly(tmp_path: Path) -> None:
    made = launcher(tmp_path)
    made.write_files("169.254.77.3")
    path = tmp_path / "resolv.conf"
    assert path.read_text() == "nameserver 169.254.77.3\noptions ndots:0\n"
    assert path.stat().st_mode & 0o777 == 0o644
    made.remove_files()
    made.remove_files()
    assert not path.exists()


PR_SET_CHILD_SUBREAPER = 36

KILLED_AGENT = Path(__file__).with_name("programs") / "killed_agent.py"


@dataclass
class Program:
    """The proxy's process, as the arguments of `start_child`."""

    binary: Path
    user: ProxyUser
    environment: Mapping[str, str]
    resolv_conf: Path
    output: Path

    def start(self) -> GatedProcess:
        return start_child(self.binary, self.user, self.environment, self.resolv_conf, self.output)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


def program(folder: Path, *lines: str, **environment: str) -> Program:
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text("nameserver 169.254.77.3\n")
    binary = write_script(folder / "proxy", *lines)
    return Program(binary, ProxyUser(USER, UID, GID), environment, resolv_conf, folder / "output.log")


async def run(started: Program) -> int | None:
    gated = started.start()
    gated.open_gate()
    try:
        return await gated.process.wait()
    finally:
        gated.process.close()


async def test_the_pid_stays_the_same_in_a_session_of_its_own(folder: Path) -> None:
    started = program(folder, "echo $$; cut -d' ' -f6 /proc/$$/stat; readlink /proc/$$/cwd")
    gated = started.start()
    gated.open_gate()
    assert await gated.process.wait() == 0
    gated.process.close()
    assert started.output.read_text().split() == [str(gated.process.pid), str(gated.process.pid), "/"]


async def test_it_has_its_own_environment_and_nothing_of_the_agent_s(folder: Path) -> None:
    os.environ["EXCLAVE_TEST_LEAK"] = "1"
    try:
        started = program(folder, "tr '\\0' '\\n' </proc/$$/environ", LINKERD2_PROXY_LOG="info")
        await run(started)
    finally:
        del os.environ["EXCLAVE_TEST_LEAK"]
    found = dict(line.split("=", 1) for line in started.output.read_text().splitlines())
    # PWD, OLDPWD and SHLVL are the shells', which run before it or are this stand-in.
    assert set(found) - {"PWD", "OLDPWD", "SHLVL", "_"} == {"LINKERD2_PROXY_LOG", "PATH"}
    assert found["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin"


async def test_it_has_no_input_ignores_no_signal_and_has_no_open_file_of_the_agent(folder: Path) -> None:
    started = program(folder, "grep SigIgn /proc/$$/status; for f in /proc/$$/fd/*; do readlink $f; done")
    with (folder / "secret").open("w"):
        await run(started)
    ignored, *files = started.output.read_text().splitlines()
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0
    own = {"/dev/null", str(started.output), str(started.binary)}
    assert own <= set(files) <= own | inherited_files()


async def test_it_cannot_unmount_its_resolv_conf_and_runs_as_its_user(folder: Path) -> None:
    started = program(folder, "cat /etc/resolv.conf; umount /etc/resolv.conf 2>&1 || id -u")
    await run(started)
    first, *_, last = started.output.read_text().splitlines()
    assert (first, last) == ("nameserver 169.254.77.3", str(UID))


async def test_its_output_is_appended_and_readable_by_root_alone(folder: Path) -> None:
    started = program(folder, "echo one; echo two >&2")
    os.umask(0o022)
    await run(started)
    await run(started)
    assert started.output.read_text() == "one\ntwo\none\ntwo\n"
    assert started.output.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("line", "status"), [("exit 0", 0), ("exit 64", 64), ("kill -SEGV $$", -11)])
async def test_its_exit_status_is_returned(folder: Path, line: str, status: int) -> None:
    assert await run(program(folder, line)) == status


@pytest.mark.parametrize(("when", "words"), [("before", ""), ("after", "here\n")])
async def test_an_agent_killed_before_the_gate_leaves_no_process_and_after_it_a_proxy(
    folder: Path, when: str, words: str
) -> None:
    started = program(folder, "echo here")
    with adopted_orphans():
        agent = subprocess.run(
            [sys.executable, KILLED_AGENT, started.binary, started.resolv_conf, started.output, when],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "agent")},
        )
        assert agent.returncode == -signal.SIGKILL, agent.stderr
        pid = int(agent.stdout)
        left = HeldProcess(pid, os.pidfd_open(pid))
        assert await left.wait() == 0
        left.close()
    assert started.output.read_text() == words


def test_a_folder_that_cannot_be_written_is_reported(folder: Path) -> None:
    started = program(folder, "echo here")
    absent = Program(started.binary, started.user, {}, started.resolv_conf, folder / "absent" / "output.log")
    with pytest.raises(HostError) as caught:
        absent.start()
    assert caught.value.fault is Fault.PROXY_UNUSABLE
    assert str(caught.value.message) == "the proxy's process cannot be made: No such file or directory"
    assert caught.value.hint == (
        f"see whether {folder}/absent is writable, and whether this machine has room for processes"
    )


async def test_the_command_line_shows_nothing_of_the_environment(folder: Path) -> None:
    gated = program(folder, "echo here", LINKERD2_PROXY_X="hidden").start()
    assert "hidden" not in Path(f"/proc/{gated.process.pid}/cmdline").read_text()
    await gated.cancel()


@contextmanager
def adopted_orphans() -> Iterator[None]:
    """Orphans of our children become our children, so that their end can be waited for."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def inherited_files() -> set[str]:
    """Files that the tests' own parent has left open for every program below."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


PROGRAM = Path(__file__).with_name("programs") / "choose_slot.py"

BOTH = ["169.254.77.1/32", "169.254.77.2/32"]


def chosen(addresses: list[str], *listened: tuple[str, int], used: str = "") -> list[object]:
    (found,) = run_program(addresses, listened, used)
    return found


def run_program(addresses: list[str], listened: tuple[tuple[str, int], ...], used: str, *more: str) -> list[list[Any]]:
    """What the program prints, line by line."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(PROGRAM), json.dumps([addresses, listened, used]), *more],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "agent"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_shortage_of_descriptors_is_neither_a_host_without_ipv6_nor_a_link_without_addresses() -> None:
    families, error = run_program([*BOTH, "fd77:ec1a:7e::1/128"], (), "", "shortage")
    assert families == [[4, 6], [4, 6]]
    assert error[:2] == ["proxy-unusable", "the proxy's ports cannot be tried now: Too many open files"]


@pytest.mark.parametrize("port", [4140, 4143, 4191])
def test_a_slot_with_a_used_port_is_passed_over(port: int) -> None:
    assert chosen(BOTH) == ["a", [4]]
    assert chosen(BOTH, ("169.254.77.1", port)) == ["b", [4]]


def test_ports_at_other_addresses_do_not_matter() -> None:
    assert chosen([*BOTH, "10.77.0.20/32"], ("10.77.0.20", 4143), ("127.0.0.1", 4191)) == ["a", [4]]


def test_a_listener_at_every_address_uses_both_slots() -> None:
    assert chosen(BOTH, ("0.0.0.0", 4191)) == [
        "taken",
        "the proxy's ports on 169.254.77.1 and 169.254.77.2 are taken by processes that are not ours",
        "see whose they are, and end them: ss -ltnp 'sport = :4191'",
    ]


def test_a_slot_of_our_own_process_is_passed_over() -> None:
    assert chosen(BOTH, used="a") == ["b", [4]]
    assert chosen(BOTH, ("169.254.77.2", 4143), used="a") == [
        "taken",
        "the proxy's ports on 169.254.77.2 are taken by processes that are not ours",
        "see whose they are, and end them: ss -ltnp 'sport = :4191'",
    ]
    assert chosen(BOTH, used="ab")[1] == "both instances of the proxy run already"


def test_a_link_with_ipv6_serves_both_families() -> None:
    assert chosen([*BOTH, "fd77:ec1a:7e::1/128"]) == ["a", [4, 6]]


def test_a_link_without_the_address_is_reported() -> None:
    assert chosen([]) == [
        "taken",
        "the proxy cannot listen on 169.254.77.1:4143: cannot assign requested address",
        "the link exclave0 should have that address: exclave cleanup, then start again",
    ]
