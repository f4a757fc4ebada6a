"""What a host excludes from capture: SSH servers and sessions, users and groups."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio.testing

from exclave.config import RedirectConfig
from exclave.redirect import exclusions as exclusions_module
from exclave.redirect.exclusions import find_accounts, find_exclusions, find_ssh_ports
from exclave.redirect.rules.policy import HostExclusions
from support.faults import silent_name_service

PROGRAMS = Path(__file__).with_name("programs")


@pytest.fixture(autouse=True)
def _without_ssh_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setattr(exclusions_module, "CONFIGURATION", tmp_path / "ssh")


@contextmanager
def running(name: str, what: str, folder: Path, *before: str) -> Iterator[int]:
    """The SSH server of `ssh_server.py` under this name, doing `what`; the port that it prints."""
    link = folder / name
    link.symlink_to(os.path.realpath(sys.executable))
    command = [*before, str(link), "-I", "-S", str(PROGRAMS / "ssh_server.py"), what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["sshd", "dropbear"])
def test_ports_where_an_ssh_server_listens_are_found(name: str, tmp_path: Path) -> None:
    with running(name, "listen", tmp_path) as port:
        assert port in find_ssh_ports()
    assert port not in find_ssh_ports()


@pytest.mark.parametrize("name", ["sshd", "sshd-session"])
def test_the_port_of_a_session_is_found_where_systemd_listens_for_the_server(name: str, tmp_path: Path) -> None:
    with running(name, "serve", tmp_path) as port:
        assert port in find_ssh_ports()


@pytest.mark.parametrize("what", ["forward", "serve-and-forward"])
def test_a_port_that_a_user_forwards_is_no_ssh_port(what: str, tmp_path: Path) -> None:
    """Or one `ssh -R 8080:…` would exclude the group's port from the mesh."""
    with running("sshd", what, tmp_path) as port:
        assert port not in find_ssh_ports()


def test_a_port_of_another_program_is_no_ssh_port(tmp_path: Path) -> None:
    with running("sshd-not", "listen", tmp_path) as port:
        assert port not in find_ssh_ports()


def test_an_ssh_server_in_a_container_does_not_count(tmp_path: Path) -> None:
    inside = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    with running("sshd", "listen", tmp_path, *inside) as port:
        assert port not in find_ssh_ports()


def test_ports_of_the_server_s_configuration_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "ssh"
    (folder / "sshd_config.d").mkdir(parents=True)
    (folder / "sshd_config").write_text(
        '# Port 1\nPort 3022\n  port=3023 # why\nPort "3024"\nPortage 2\nPort 99999\nPort x\nListenAddress ::\n'
    )
    (folder / "sshd_config.d" / "fleet.conf").write_text("Port 3025\n")
    (folder / "sshd_config.d" / "fleet.conf.old").write_text("Port 3\n")
    (folder / "sshd_config.d" / "folder.conf").mkdir()
    assert {3022, 3023, 3024, 3025} <= set(find_ssh_ports())
    assert not {1, 2, 3} & set(find_ssh_ports())


SESSIONS = {
    "none": ("", ((), ())),
    "of IPv4": ("10.42.0.77 50000 10.77.0.20 2022", (("10.42.0.77",), (2022,))),
    "of IPv6": ("FE80::7%eth0 50000 fe80::1%eth0 22", (("fe80::7",), (22,))),
    "cut off": ("10.42.0.77 50000", ((), ())),
    "of no address": ("here 50000 there 22", ((), ())),
}


@pytest.mark.parametrize(("variable", "found"), SESSIONS.values(), ids=SESSIONS)
@pytest.mark.parametrize("by", ["itself", "its parent's parent"])
def test_the_session_that_a_program_was_started_in_is_found(variable: str, found: object, by: str) -> None:
    """Also under sudo, which removes the variable."""
    ask = [sys.executable, str(PROGRAMS / "print_ssh_session.py")]
    command = ask if by == "itself" else ["sh", "-c", 'env -u SSH_CONNECTION "$@"; :', "sh", *ask]
    environment = {**os.environ, "SSH_CONNECTION": variable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(found)


async def test_numbers_of_users_and_groups_are_found_by_name() -> None:
    config = RedirectConfig(exclude_users=("root", "4242"), exclude_groups=("root", "4343"))
    assert await find_accounts(config) == ((0, 4242), (0, 4343))


async def test_every_user_and_group_that_does_not_exist_is_listed() -> None:
    with pytest.raises(ValueError) as caught:
        await find_accounts(RedirectConfig(exclude_users=("nobody-here", "root"), exclude_groups=("none-here",)))
    assert str(caught.value) == (
        "redirect.exclude_users: there is no user nobody-here; redirect.exclude_groups: there is no group none-here"
    )


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            RedirectConfig(exclude_users=("4242", "backup")),
            "redirect.exclude_users: the name service did not answer within 10 s which user backup is",
        ),
        (
            RedirectConfig(exclude_users=("4242",), exclude_groups=("ops",)),
            "redirect.exclude_groups: the name service did not answer within 10 s which group ops is",
        ),
    ],
    ids=["a user", "a group"],
)
async def test_a_silent_name_service_is_reported(
    config: RedirectConfig, text: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_name_service(monkeypatch), pytest.raises(ValueError) as caught:
        await find_accounts(config)
    assert str(caught.value) == text


async def test_numbers_need_no_name_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_name_service(monkeypatch):
        config = RedirectConfig(exclude_users=("4242",), exclude_groups=("4343",))
        assert await find_accounts(config) == ((4242,), (4343,))


async def test_one_search_finds_every_exclusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusions_module, "find_ssh_ports", lambda: (2222,))
    monkeypatch.setattr(exclusions_module, "find_ssh_session", lambda: (("10.42.0.77",), (2022,)))
    found = await find_exclusions(RedirectConfig(exclude_users=("4242",), exclude_groups=("4343",)))
    assert found == HostExclusions((4242,), (4343,), (2022, 2222), ("10.42.0.77",))
