"""Real namespaces, and what is left of them: nothing."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import trio

from exclave_sandbox.stage.namespaces import MachineError, open_network

MAKER = """
import sys, trio
from exclave_sandbox.stage.namespaces import open_network

async def main():
    async with open_network() as network:
        machine = await network.add("vm", "10.77.0.20/24")
        await machine.run("sh", "-c", "sleep 600 >/dev/null 2>&1 &")
        print(machine.pid, network.switch.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def _host_links() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


async def test_machines_on_one_bridge_reach_each_other() -> None:
    async with open_network() as network:
        server = await network.add("server", "10.77.0.1/24")
        client = await network.add("client", "10.77.0.2/24")
        listen = (
            "import socket; server = socket.create_server(('10.77.0.1', 80)); print('up', flush=True);"
            "server.accept()[0].send(b'hello')"
        )
        running = subprocess.Popen(server.command(sys.executable, "-c", listen), stdout=subprocess.PIPE)
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        ask = "import socket; print(socket.create_connection(('10.77.0.1', 80)).recv(9))"
        assert await client.must(sys.executable, "-c", ask) == b"b'hello'\n"
        running.wait()
        running.stdout.close()


async def test_a_machine_has_mounts_a_name_and_processes_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("x")
    async with open_network() as network:
        machine = await network.add("vm")
        await machine.share(tmp_path, tmp_path / "here")
        assert await machine.must("cat", str(tmp_path / "here" / "file")) == b"x"
        assert not (tmp_path / "here" / "file").exists()
        assert await machine.must("hostname") == b"vm\n"
        assert await machine.must("sh", "-c", "readlink /proc/self") != str(os.getpid()).encode()


async def test_the_hosts_links_stay_as_they_were() -> None:
    before = _host_links()
    async with open_network() as network:
        await network.add("vm", "10.77.0.20/24")
        assert _host_links() == before
    assert _host_links() == before


async def test_nothing_outlives_the_network() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        await machine.run("sh", "-c", "sleep 600 >/dev/null 2>&1 &")
        inside = [child.pid for child in psutil.Process(machine.pid).children(recursive=True)]
        assert inside
        scratch = network.scratch
    assert not any(psutil.pid_exists(pid) for pid in [machine.pid, *inside])
    assert not scratch.exists()


@pytest.mark.root  # the program that MAKER is makes namespaces
async def test_nothing_outlives_a_process_that_was_killed() -> None:
    maker = subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    holders = [psutil.Process(int(pid)) for pid in maker.stdout.readline().split()]
    inside = [child for holder in holders for child in holder.children(recursive=True)]
    assert inside
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    _, alive = await trio.to_thread.run_sync(lambda: psutil.wait_procs([*holders, *inside], timeout=20))
    assert not alive


async def test_an_orphan_that_ends_is_reaped() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        count = "grep -h '^State:.Z' /proc/[0-9]*/status"
        await machine.run("sh", "-c", "(sleep 0 &) ; true")
        assert (await machine.run("sh", "-c", count)).output == b""


async def test_a_namespace_that_is_in_use_is_not_joined() -> None:
    program = "import trio; from exclave_sandbox.stage.namespaces import open_network\n" + textwrap.dedent(
        """
        async def main():
            async with open_network() as network:
                await network.join("10.77.0.1/24")
        trio.run(main)
        """
    )
    with_a_link = 'ip link add other type bridge; exec "$0" -c "$1"'
    arguments = ["unshare", "--net", "sh", "-c", with_a_link, sys.executable, program]
    done = await trio.run_process(arguments, capture_stderr=True, check=False)
    assert done.returncode == 1
    assert b"this network namespace has links of its own (other) and stays untouched" in done.stderr


async def test_a_command_that_fails_raises_its_error_output() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        with pytest.raises(MachineError, match="ip address add nonsense dev eth0: Error: any valid prefix"):
            await machine.add_address("nonsense")
