"""What a process is made of, without making one: `test_instance` makes real ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exclave.config import ProxyConfig
from exclave.errors import HostError
from exclave.kit.tasks.latest import Latest
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.launcher import ProxyLauncher
from support.mesh import ADDRESS, RECORD, make_settings


def launcher(folder: Path, *addresses: str) -> ProxyLauncher:
    membership: Any = SimpleNamespace(record=RECORD, captured=Latest(addresses))
    return ProxyLauncher(ProxyConfig(), ProxyUser("nobody", 65534, 65534), folder, membership, folder / "w.sock")


def test_what_is_wanted_differs_by_instance_and_by_what_settings_tell_a_proxy(tmp_path: Path) -> None:
    made, settings = launcher(tmp_path, ADDRESS), make_settings()
    assert made.wanted_digest(settings, "a") == made.wanted_digest(make_settings(), "a")
    assert made.wanted_digest(settings, "a") != made.wanted_digest(settings, "b")
    assert made.wanted_digest(settings, "a") != made.wanted_digest(make_settings(anchors="other"), "a")
    assert made.wanted_digest(settings, "a") == made.wanted_digest(make_settings(networks=("10.9.0.0/24",)), "a")


def test_a_machine_without_an_address_has_nothing_to_tell_a_proxy(tmp_path: Path) -> None:
    assert launcher(tmp_path).wanted_digest(make_settings(), "a") is None
    with pytest.raises(HostError, match="no address to have in the mesh"):
        launcher(tmp_path).environment(make_settings(), "a")


def test_names_are_written_for_every_user_and_forgotten(tmp_path: Path) -> None:
    made = launcher(tmp_path)
    made.write_resolv_conf("169.254.77.3")
    path = tmp_path / "resolv.conf"
    assert path.read_text() == "nameserver 169.254.77.3\noptions ndots:0\n"
    assert path.stat().st_mode & 0o777 == 0o644
    made.remove_resolv_conf()
    made.remove_resolv_conf()
    assert not path.exists()
