"""SSH ports that an agent without CAP_SYS_PTRACE finds by the cgroups of sockets."""

import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from exclave.redirect.hidden_ssh import find_hidden_services, find_hidden_ssh_ports, ports_of_services, service_of

SSH = "/system.slice/ssh.service"

# Printed by ss of iproute2 6.1, with blanks removed.
LISTED = """\
LISTEN 0 128 0.0.0.0:2222 0.0.0.0:* ino:20534948 sk:118c cgroup:/system.slice/ssh.service <->
LISTEN 0 128 [::]:2223 [::]:* ino:20534949 sk:118d cgroup:/system.slice/ssh.socket v6only:1 <->
LISTEN 0 128 127.0.0.1:6010 0.0.0.0:* ino:20534950 sk:118e cgroup:/system.slice/ssh.service <->
LISTEN 0 128 [::1]:6010 [::]:* ino:20534951 sk:118f cgroup:/system.slice/ssh.service <->
LISTEN 0 4096 0.0.0.0:8080 0.0.0.0:* ino:20481871 sk:1190 cgroup:/system.slice/web.service <->
ESTAB 0 0 10.77.0.20:2022 10.42.0.77:50000 ino:20481872 sk:1191 cgroup:/system.slice/ssh.service <->
TIME-WAIT 0 0 10.77.0.20:2021 10.42.0.77:50001 ino:0 sk:1192
"""


def test_the_ports_of_the_server_s_service_and_of_its_socket_unit_are_found() -> None:
    assert ports_of_services(LISTED, {SSH}) == (2022, 2222, 2223)
    assert ports_of_services(LISTED, {"/system.slice/dropbear.service"}) == ()
    assert ports_of_services("", {SSH}) == ()


@pytest.mark.parametrize(
    ("cgroups", "service"),
    [
        ("9:name=systemd:/\n0::/system.slice/ssh.service\n", SSH),
        ("0::/user.slice/user-0.slice/session-3.scope\n", ""),  # a session: its listeners are forwarded ports
        ("1:cpu:/system.slice/ssh.service\n", ""),  # with version 1, sockets have no cgroup
        ("", ""),
    ],
)
def test_the_cgroup_of_a_service_is_read(cgroups: str, service: str) -> None:
    assert service_of(cgroups) == service


async def test_without_a_hidden_server_nothing_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without ss
    assert await find_hidden_ssh_ports({"exclave-no-such-program"}) == ()


def test_a_server_that_shows_its_sockets_is_not_hidden(tmp_path: Path) -> None:
    program = tmp_path / "exclave-ssh"
    shutil.copy("/bin/sh", program)
    command = [program, "-c", "echo up; read -r _"]  # it ends with the test
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before, the kernel may still report the former name
        names = [each.info["name"] for each in psutil.process_iter(["name"]) if each.pid == process.pid]
        found = find_hidden_services(frozenset({program.name}))
        process.communicate()
    assert (names, found) == ([program.name], frozenset())
