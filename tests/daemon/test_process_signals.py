"""`exclave run` as a real process: its signals, its locks, and what it notifies systemd of."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.cli.main import main
from exclave.cluster.credential import Credential, render_credential
from exclave.cluster.member_cluster import FILE as CREDENTIAL
from exclave.confirm.confirm import Unconfirmed, load_unconfirmed
from exclave.control.client import query_agent
from exclave.kit.host.files import make_folder
from exclave.member.record import store_membership
from support.mesh import RECORD, mesh
from support.needs import need


class Process:
    """`exclave run` on a machine without a membership, and what it tells systemd."""

    def __init__(self, folder: Path) -> None:
        self.state, self.runtime = folder / "state", folder / "run"
        self.config = folder / "config.toml"
        self.configure()
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(folder / "notify"))
        self._notified.settimeout(60)
        self.statuses: list[str] = []
        self._running: list[subprocess.Popen[bytes]] = []

    def configure(self, *lines: str) -> None:
        paths = f'[paths]\nstate = "{self.state}"\nruntime = "{self.runtime}"\n'
        self.config.write_text(paths + "\n".join(lines))

    def start(self, *options: str, before: Sequence[str] = (), **variables: str) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        environment = os.environ | {"PYTHONPATH": path, "NOTIFY_SOCKET": self._notified.getsockname()} | variables
        command = [*before, sys.executable, "-m", "exclave", "run", *options, "--config", self.config]
        self._running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
        return self._running[-1]

    def be_member(self) -> None:
        make_folder(self.state, 0o700)
        store_membership(self.state, replace(RECORD, ca=mesh().anchor.pem))
        (self.state / CREDENTIAL).write_text(render_credential(Credential("t", 0.0, 4102444800.0)))

    def hears(self, word: str) -> bool:
        """Whether this is what it tells next, beside its status."""
        while (heard := self._notified.recv(10000).decode()).startswith("STATUS="):
            self.statuses.append(heard.removeprefix("STATUS="))
        return heard.partition("\n")[0] == word

    def hears_status(self, text: str) -> bool:
        """Whether it tells this status, now or after others."""
        while not any(text in status for status in self.statuses):
            heard = self._notified.recv(10000).decode()
            self.statuses.append(heard.partition("STATUS=")[2].partition("\n")[0])
        return True

    def status(self) -> int:
        return main(["status", "--config", str(self.config)])

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        self._notified.close()


@pytest.fixture
def process() -> Iterator[Process]:
    need(os.geteuid() == 0, "an agent runs as root")
    with tempfile.TemporaryDirectory() as folder:  # short names: a socket's path has 107 characters
        made = Process(Path(folder))
        yield made
        made.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_waits_idle_for_a_membership_and_stops_at_a_signal(process: Process, number: signal.Signals) -> None:
    agent = process.start()
    assert process.hears("READY=1")
    assert process.status() == 4
    assert sorted(path.name for path in process.runtime.iterdir()) == ["agent.lock", "control.sock"]
    agent.send_signal(number)
    assert process.hears("STOPPING=1")
    assert agent.wait() == 0
    assert process.hears_status("stopped: traffic does not go through the mesh")
    assert list(process.runtime.iterdir()) == []
    assert process.status() == 5


def test_a_second_agent_is_refused_and_does_the_first_no_harm(process: Process) -> None:
    process.start()
    assert process.hears("READY=1")
    second = process.start()
    assert second.wait() == 35
    assert process.status() == 4
    text = f"another agent runs already: it holds {process.runtime}/agent.lock"
    hint = "one machine is one member: stop the other agent first, for instance with systemctl stop exclave"
    assert process.hears_status(f"{text}; to do: {hint}")


# Where every process ends with the test: the one that keeps connections alive outlives the agent.
IN_A_MACHINE = ("unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child", "--")


def with_half_a_package(folder: Path) -> dict[str, str]:
    """The variables of a process that finds a package whose upgrade is under way."""
    folder.mkdir()
    (folder / "httpx.py").write_text("raise ImportError('half of it is there', name='httpx')\n")
    path = os.pathsep.join([str(folder), *(os.path.abspath(entry) for entry in sys.path if entry)])
    return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_members_agent_goes_on_when_a_package_and_a_program_are_there_again(process: Process, tmp_path: Path) -> None:
    process.be_member()
    process.configure('[proxy]\nuser = "nobody-here"')
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ip").symlink_to(shutil.which("ip") or "")
    variables = with_half_a_package(tmp_path / "packages") | {"PATH": str(programs)}
    unshare = shutil.which(IN_A_MACHINE[0]) or ""
    agent = process.start(before=(unshare, *IN_A_MACHINE[1:]), **variables)
    assert process.hears("READY=1")
    assert process.hears_status("Python package httpx cannot be used")
    (tmp_path / "packages" / "httpx.py").unlink()
    assert process.hears_status("; problem: the program nft cannot be run: No such file or directory")
    assert process.status() == 3
    (programs / "nft").symlink_to(shutil.which("nft") or "")
    assert process.hears_status("there is no user nobody-here for the proxy to run as")  # its boot has begun
    assert agent.wait() == 32


def test_an_agent_of_no_member_ends_without_its_packages(process: Process, tmp_path: Path) -> None:
    assert process.start(**with_half_a_package(tmp_path / "packages")).wait() == 36
    assert process.hears_status("Python package httpx cannot be used")


def test_a_wrong_configuration_is_shown_by_systemd(process: Process) -> None:
    process.config.write_text("[proxy]\nbinary = 7\n[redirect]\nexclude_users = 7\n")
    agent = process.start()
    assert agent.wait() == 40
    assert agent.stderr is not None
    message, hint = agent.stderr.read().decode().removeprefix("exclave: ").strip().split("\n  to do: ")
    place, first, second = map(str.strip, message.splitlines())
    assert process.hears_status(f"{place} {first}; {second}; to do: {hint}")


def test_a_hangup_makes_it_another_program_in_the_same_process(process: Process) -> None:
    agent = process.start()
    assert process.hears("READY=1")
    first = query_agent(process.runtime, "status")["since"]
    agent.send_signal(signal.SIGHUP)
    assert process.hears("RELOADING=1")
    assert process.hears("READY=1")
    assert agent.poll() is None
    assert query_agent(process.runtime, "status")["since"] >= first
    agent.terminate()
    assert agent.wait() == 0


def test_a_reload_makes_it_another_program_in_the_same_process_unless_that_could_not_start(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = process.start()
    assert process.hears("READY=1")
    good = process.config.read_text()
    process.config.write_text(good + "[proxy]\nbinary = 7\n")
    assert main(["reload", "--config", str(process.config)]) == 40
    assert process.status() == 40
    process.config.write_text(good)
    (empty := process.config.parent / "bin").mkdir(mode=0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(empty))
        assert main(["reload", "--config", str(process.config)]) == 31
    assert process.status() == 4
    assert main(["reload", "--config", str(process.config)]) == 0
    assert process.hears("RELOADING=1")
    assert process.hears("RELOADING=1")
    assert process.hears("READY=1")
    agent.terminate()
    assert agent.wait() == 0
    assert main(["reload", "--config", str(process.config)]) == 5


@pytest.mark.parametrize(
    ("number", "notified"), [(signal.SIGHUP, ["RELOADING=1", "READY=1"]), (signal.SIGTERM, ["STOPPING=1"])]
)
def test_a_signal_that_comes_while_its_program_starts_again_is_received_by_the_next(
    process: Process, number: signal.Signals, notified: list[str]
) -> None:
    agent = process.start()
    assert process.hears("READY=1")
    agent.send_signal(signal.SIGHUP)
    assert process.hears("RELOADING=1")
    assert process.hears_status("handing over: traffic stays in the mesh")
    agent.send_signal(number)
    while not process.hears(notified[0]):
        assert agent.poll() is None
    assert [process.hears(word) for word in notified[1:]] == [True for _ in notified[1:]]
    if number == signal.SIGHUP:  # a second SIGTERM would end Python itself where it has put back its own handlers
        agent.terminate()
    assert agent.wait() == 0


def test_rules_are_to_be_confirmed_once_and_not_again_after_a_hangup(process: Process) -> None:
    agent = process.start("--confirm", "60s")
    assert process.hears("READY=1")
    assert load_unconfirmed(process.state) == Unconfirmed(60.0)
    assert query_agent(process.runtime, "confirm") == {"confirmed": True}
    agent.send_signal(signal.SIGHUP)
    assert process.hears("RELOADING=1")
    assert process.hears("READY=1")
    assert load_unconfirmed(process.state) is None


def test_an_agent_that_is_refused_asks_nobody_to_confirm(process: Process) -> None:
    process.start()
    assert process.hears("READY=1")
    assert process.start("--confirm", "60s").wait() == 35
    assert load_unconfirmed(process.state) is None


def test_files_of_a_killed_agent_do_not_stop_the_next_one(process: Process) -> None:
    agent = process.start()
    assert process.hears("READY=1")
    agent.kill()
    agent.wait()
    assert (process.runtime / "control.sock").exists()
    assert process.status() == 5
    process.start()
    assert process.hears("READY=1")
    assert process.status() == 4
