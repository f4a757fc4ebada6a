"""Mounts whose servers need a privileged source port."""

from pathlib import Path

import pytest

from exclave.config import RedirectConfig
from exclave.host_check import mounts
from exclave.host_check.mounts import NfsMount, find_mount_warnings, mount_warnings, parse_nfs_mounts

HOME = "141 29 0:50 / /home rw shared:77 - nfs4 10.0.0.5:/home rw,vers=4.2,clientaddr=10.0.0.9,addr=10.0.0.5"
LINES = f"""\
29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
{HOME}
142 29 0:51 / /home2 rw shared:78 - nfs4 10.0.0.5:/other rw,addr=10.0.0.5
143 29 0:52 / /six rw - nfs [fd00::5]:/six ro,vers=3,port=12049,addr=fd00::5
144 29 0:53 / /any rw - nfs4 10.0.0.6:/any rw,noresvport,addr=10.0.0.6
145 29 0:54 / /smb rw - cifs //10.0.0.7/smb rw,addr=10.0.0.7
146 29 0:55 / /odd rw - nfs4 server:/odd rw,addr=server
- nfs4
"""
FOUND = (NfsMount("10.0.0.5:/home", "10.0.0.5"), NfsMount("[fd00::5]:/six", "fd00::5", 12049))


def test_each_server_that_needs_a_privileged_port_is_found_once() -> None:
    assert parse_nfs_mounts(LINES) == FOUND


def test_the_warning_has_the_line_to_write_with_what_is_written_already() -> None:
    first, second = mount_warnings(FOUND, RedirectConfig(exclude_outbound_networks=("10.9.0.0/16",)))
    line = 'exclude_outbound_networks = ["10.9.0.0/16", "10.0.0.5/32", "fd00::5/128"]'
    assert first == (
        "10.0.0.5:/home is mounted by NFS, whose server 10.0.0.5 may serve privileged source ports only: through the "
        "proxy it would not answer. Unless it is outside of the cluster's networks, write before you join, in "
        f"[redirect] of /etc/exclave/config.toml: {line}"
    )
    assert second.startswith("[fd00::5]:/six is mounted by NFS")
    assert second.endswith(line)


@pytest.mark.parametrize(
    "config",
    [
        RedirectConfig(exclude_outbound_networks=("10.0.0.0/24", "fd00::/64")),
        RedirectConfig(exclude_outbound_ports=(2049, (12000, 13000))),
        RedirectConfig(exclude_outbound_networks=("10.0.0.5/32",), exclude_outbound_ports=(12049,)),
    ],
)
def test_what_is_excluded_is_no_warning(config: RedirectConfig) -> None:
    assert mount_warnings(FOUND, config) == []


async def test_what_is_mounted_is_read_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await find_mount_warnings(RedirectConfig()) == []  # here
    (tmp_path / "mountinfo").write_text(LINES)
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    assert len(await find_mount_warnings(RedirectConfig())) == len(FOUND)
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "nowhere")
    assert await find_mount_warnings(RedirectConfig()) == []
