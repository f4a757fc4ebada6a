"""config.toml: its keys and values, and every mistake reported at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.config import (
    Config,
    ListingConfig,
    MemberConfig,
    Paths,
    ProxyConfig,
    RedirectConfig,
    is_interface,
    load_config,
    parse_config,
    salvage_config,
)
from exclave.errors import ConfigError, Fault

WHOLE = """
[paths]
state = "/srv/exclave"
runtime = "/run/other"
[member]
address = "10.0.0.5"
captured_addresses = ["10.0.0.9", "FD00::0009"]
zone = "eu-1a"
[proxy]
binary = "/opt/linkerd2-proxy"
user = "proxy"
log = "debug"
drain = "1m30s"
[redirect]
exclude_inbound_ports = [22, 65535, "8000-8100"]
exclude_inbound_networks = ["10.9.0.0/16", "fd00::/8"]
exclude_inbound_interfaces = ["eth1"]
exclude_outbound_ports = [1]
exclude_outbound_networks = ["10.8.0.1"]
exclude_outbound_interfaces = ["docker0", "br-1a2b@c.d_e"]
exclude_users = ["backup", "1000", 1001]
exclude_groups = ["ops", 0]
capture_interfaces = ["docker0"]
[listing]
drain = "500ms"
"""


PORT = 'a port from 1 to 65535, or a range such as "8000-8100", was expected'
NAME = "an interface's name such as eth0 was expected"
ACCOUNT = "a name, or a number from 0 to 4294967294, was expected"


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml")
    assert caught.value.fault is Fault.CONFIG_INVALID
    return caught.value


def test_every_key_is_read() -> None:
    assert parse_config(WHOLE, "here") == Config(
        paths=Paths(Path("/srv/exclave"), Path("/run/other")),
        member=MemberConfig("10.0.0.5", ("10.0.0.9", "fd00::9"), "eu-1a"),
        proxy=ProxyConfig(Path("/opt/linkerd2-proxy"), "proxy", "debug", 90.0),
        redirect=RedirectConfig(
            exclude_inbound_ports=(22, 65535, (8000, 8100)),
            exclude_inbound_networks=("10.9.0.0/16", "fd00::/8"),
            exclude_inbound_interfaces=("eth1",),
            exclude_outbound_ports=(1,),
            exclude_outbound_networks=("10.8.0.1/32",),
            exclude_outbound_interfaces=("docker0", "br-1a2b@c.d_e"),
            exclude_users=("backup", "1000", "1001"),
            exclude_groups=("ops", "0"),
            capture_interfaces=("docker0",),
        ),
        listing=ListingConfig(0.5),
    )


def test_every_key_is_optional() -> None:
    assert parse_config("", "here") == Config()


def test_every_mistake_is_reported_at_once_with_its_place() -> None:
    problem = refused("""
colour = "red"
[member]
address = "127.0.0.1"
captured_addresses = ["10.0.0.9", "fe80::1"]
[paths]
state = "var/lib"
[proxy]
binray = "/opt/proxy"
user = ""
drain = 30
[redirect]
exclude_inbound_ports = [22, 0, "8100-8000", "1-65536", "http"]
exclude_inbound_networks = ["10.9.0.0"]
exclude_outbound_ports = [true]
exclude_networks = ["10.9.0.0/16"]
exclude_outbound_networks = ["10.9.0.5/16", "all"]
exclude_users = "backup"
exclude_groups = [-1, 4294967295, ""]
exclude_outbound_interfaces = ["eth0", "eth 0", 'a"b', "../..", "sixteen-letters-", 7]
[listing]
drain = "soon"
[[proxies]]
""")
    assert problem.message.splitlines() == [
        "config.toml:",
        "colour: no such key",
        "proxies: no such key",
        "paths.state: an absolute path was expected, found 'var/lib'",
        "member.address: an address that others reach this machine at was expected, found '127.0.0.1'",
        "member.captured_addresses: an address that others reach this machine at was expected, found 'fe80::1'",
        "proxy.binray: no such key",
        "proxy.user: text was expected, found ''",
        "proxy.drain: text was expected, found 30",
        "redirect.exclude_networks: no such key",
        f"redirect.exclude_inbound_ports: {PORT}, found 0",
        "redirect.exclude_inbound_ports: a range that begins with its lower end was expected, found '8100-8000'",
        f"redirect.exclude_inbound_ports: {PORT}, found '1-65536'",
        "redirect.exclude_inbound_ports: a range such as 8000-8100 was expected, found 'http'",
        f"redirect.exclude_outbound_ports: {PORT}, found True",
        "redirect.exclude_outbound_networks: 10.9.0.5/16 has host bits set",
        "redirect.exclude_outbound_networks: 'all' does not appear to be an IPv4 or IPv6 network",
        f"redirect.exclude_outbound_interfaces: {NAME}, found 'eth 0'",
        f"redirect.exclude_outbound_interfaces: {NAME}, found 'a\"b'",
        f"redirect.exclude_outbound_interfaces: {NAME}, found '../..'",
        f"redirect.exclude_outbound_interfaces: {NAME}, found 'sixteen-letters-'",
        f"redirect.exclude_outbound_interfaces: {NAME}, found 7",
        "redirect.exclude_users: a list was expected, found 'backup'",
        f"redirect.exclude_groups: {ACCOUNT}, found -1",
        f"redirect.exclude_groups: {ACCOUNT}, found 4294967295",
        f"redirect.exclude_groups: {ACCOUNT}, found ''",
        "listing.drain: 'soon' is not a duration such as 10s, 5m or 24h",
    ]
    assert problem.hint == "correct every line above; `exclave run --help` lists the keys"


def test_a_zone_is_a_valid_label_value() -> None:
    problem = refused('[member]\nzone = "eu west"\naddress = "10.0.0"')
    assert problem.message.splitlines() == [
        "config.toml:",
        "member.address: '10.0.0' does not appear to be an IPv4 or IPv6 address",
        "member.zone: a label's value such as eu-1a was expected, found 'eu west'",
    ]


def test_a_value_in_the_place_of_a_table_is_a_mistake() -> None:
    assert refused('member = "me"').message.splitlines()[1:] == ["member: a table was expected, found 'me'"]


@pytest.mark.parametrize(
    "name", ["eth0", "wlp2s0", "br-1a2b3c4d5e6f", "exclave0", "vlan.100", "veth@if2", "fifteen-letters"]
)
def test_valid_interface_names(name: str) -> None:
    assert is_interface(name)


@given(name=some.text(max_size=18))
def test_an_interface_name_is_short_and_has_no_special_characters(name: str) -> None:
    if is_interface(name):
        assert 1 <= len(name.encode()) <= 15
        assert not set(name) & set("\"'\\/ \n\t{};,$#*")


def test_a_clean_up_uses_the_valid_part_of_a_broken_file(tmp_path: Path) -> None:
    """A mistake in one key must not hide the folder with the records of the proxies."""
    path = tmp_path / "config.toml"
    path.write_text('[paths]\nruntime = "/run/other"\n[proxy]\nbinary = 7\n[redirect]\nexclude_users = 1\n')
    assert salvage_config(path) == Config(paths=Paths(runtime=Path("/run/other")))
    for broken in (b"[paths\n", b"\xff", b"paths = 7\n"):
        path.write_bytes(broken)
        assert salvage_config(path) == Config()
    assert salvage_config(tmp_path) == Config() == salvage_config(tmp_path / "absent")


def test_invalid_toml_is_reported_with_its_line() -> None:
    problem = refused("[paths\n")
    assert problem.message.startswith("config.toml is not TOML: ")
    assert "line 1" in problem.message
    assert problem.hint == "correct that line"


def test_a_missing_file_means_all_defaults(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.toml") == Config()


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    for path, why in ((tmp_path, f"[Errno 21] Is a directory: '{tmp_path}'"), (tmp_path / "binary", "'utf-8' codec")):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.message.startswith(f"cannot read {path}: {why}")
        assert caught.value.hint == "make it readable UTF-8 text"


@pytest.mark.parametrize("cores", ["0", "1025", "true", '"2"', "1.5"])
def test_the_proxy_has_a_whole_number_of_threads(cores: str) -> None:
    with pytest.raises(ConfigError, match=r"proxy\.cores: a number from 1 to 1024 was expected"):
        parse_config(f"[proxy]\ncores = {cores}", "config.toml")
    assert parse_config("[proxy]\ncores = 4", "config.toml").proxy.cores == 4
