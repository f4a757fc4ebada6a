"""config.toml: what may stand in it, and every mistake told at once."""

from pathlib import Path

import pytest

from exclave.cli import KEYS
from exclave.config import (
    Config,
    ListingConfig,
    MemberConfig,
    Paths,
    ProxyConfig,
    RedirectConfig,
    load_config,
    parse_config,
)
from exclave.errors import ConfigError, Fault

WHOLE = """
[paths]
state = "/srv/exclave"
runtime = "/run/other"
[member]
address = "10.0.0.5"
zone = "eu-1a"
[proxy]
binary = "/opt/linkerd2-proxy"
user = "proxy"
log = "debug"
drain = "1m30s"
[redirect]
exclude_inbound_ports = [22, 65535]
exclude_outbound_ports = [1]
exclude_networks = ["10.9.0.0/16", "fd00::/8"]
exclude_users = ["backup", "1000"]
[listing]
drain = "500ms"
"""


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml")
    assert caught.value.fault is Fault.CONFIG_INVALID
    return caught.value


def test_every_key_is_read() -> None:
    assert parse_config(WHOLE, "here") == Config(
        paths=Paths(Path("/srv/exclave"), Path("/run/other")),
        member=MemberConfig("10.0.0.5", "eu-1a"),
        proxy=ProxyConfig(Path("/opt/linkerd2-proxy"), "proxy", "debug", 90.0),
        redirect=RedirectConfig((22, 65535), (1,), ("10.9.0.0/16", "fd00::/8"), ("backup", "1000")),
        listing=ListingConfig(0.5),
    )


def test_every_key_is_optional() -> None:
    assert parse_config("", "here") == Config()


def test_what_help_says_can_be_written_and_holds_the_defaults() -> None:
    """Its lines become TOML once comments are off and each key has a line of its own."""
    table, written, named = "", [], set()
    for line in KEYS.splitlines()[1:]:
        found = line.split()
        if found[0].startswith("["):
            table = found.pop(0)
            written.append(table)
        while len(found) > 2 and found[1] == "=":
            written.append(" ".join(found[:3]))
            named.add(f"{table[1:-1]}.{found[0]}")
            found = found[3:]
    parsed, whole = parse_config("\n".join(written), "help"), Config()
    assert named == {f"{section}.{key}" for section in vars(whole) for key in vars(getattr(whole, section))}, (
        "help names every key"
    )
    assert (parsed.paths, parsed.proxy, parsed.listing) == (whole.paths, whole.proxy, whole.listing)


def test_every_mistake_is_told_at_once_with_its_place() -> None:
    problem = refused("""
colour = "red"
member = "me"
[paths]
state = "var/lib"
[proxy]
binray = "/opt/proxy"
user = ""
drain = 30
[redirect]
exclude_inbound_ports = [22, 0]
exclude_outbound_ports = [true]
exclude_networks = ["10.9.0.5/16"]
exclude_users = "backup"
[listing]
drain = "soon"
""")
    assert problem.message.splitlines() == [
        "config.toml:",
        "  paths.state: an absolute path was expected, found 'var/lib'",
        "  member: a table was expected, found 'me'",
        "  proxy.binray: no such key",
        "  proxy.user: text was expected, found ''",
        "  proxy.drain: text was expected, found 30",
        "  redirect.exclude_inbound_ports: a port from 1 to 65535 was expected, found 0",
        "  redirect.exclude_outbound_ports: a port from 1 to 65535 was expected, found True",
        "  redirect.exclude_networks: 10.9.0.5/16 has host bits set",
        "  redirect.exclude_users: a list was expected, found 'backup'",
        "  listing.drain: 'soon' is not a duration such as 10s, 5m or 24h",
        "  colour: no such key",
    ]
    assert problem.hint == "mend every line above; `exclave run --help` lists the keys"


def test_a_zone_is_what_a_label_can_hold() -> None:
    problem = refused('[member]\nzone = "eu west"\naddress = "10.0.0"')
    assert problem.message.splitlines() == [
        "config.toml:",
        "  member.address: '10.0.0' does not appear to be an IPv4 or IPv6 address",
        "  member.zone: a label's value such as eu-1a was expected, found 'eu west'",
    ]


def test_what_is_not_toml_is_told_with_its_line() -> None:
    problem = refused("[paths\n")
    assert problem.message.startswith("config.toml is not TOML: ")
    assert "line 1" in problem.message
    assert problem.hint == "mend that line"


def test_a_file_that_is_absent_means_all_defaults(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.toml") == Config()


def test_a_file_that_cannot_be_read_is_not_taken_for_an_absent_one(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    for path, why in ((tmp_path, f"[Errno 21] Is a directory: '{tmp_path}'"), (tmp_path / "binary", "'utf-8' codec")):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.message.startswith(f"cannot read {path}: {why}")
        assert caught.value.hint == "make it readable UTF-8 text"
