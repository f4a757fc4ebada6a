"""The facts of a machine, and how few they are."""

import platform
from pathlib import Path

import pytest

from exclave import __version__
from exclave.errors import HostError
from exclave.member import facts
from exclave.member.facts import (
    choose_facts,
    hash_machine,
    parse_os_release,
    read_boot_identity,
    read_facts,
    read_machine_hash,
)

EXPECTED = "8a531980703b4802"
"""printf exclave | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef"""


def test_the_hash_is_sixteen_digits_of_an_hmac() -> None:
    assert hash_machine("0123456789abcdef0123456789abcdef") == EXPECTED


async def test_this_machine_has_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_id = tmp_path / "machine-id"
    machine_id.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(facts, "MACHINE_ID", machine_id)
    assert await read_machine_hash() == EXPECTED


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0123"])
async def test_a_machine_without_an_id_gets_an_error_with_a_hint(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_id = tmp_path / "machine-id"
    machine_id.write_text(text)
    monkeypatch.setattr(facts, "MACHINE_ID", machine_id)
    with pytest.raises(HostError) as caught:
        await read_machine_hash()
    assert caught.value.message == f"{machine_id} does not hold 32 hex digits"
    assert caught.value.hint == "run systemd-machine-id-setup, then try again"


def test_os_release_is_parsed_as_in_its_manual() -> None:
    text = "# comment\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nA='b c'\nbroken line\n"
    assert parse_os_release(text) == {"PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)", "ID": "debian", "A": "b c"}


def test_facts_are_few_and_short() -> None:
    uname = platform.uname_result("Linux", "vm-1", "6.1.0", "#1", "x86_64")
    assert choose_facts({"PRETTY_NAME": "x" * 500}, uname, "eu-1a") == {
        "hostname": "vm-1",
        "os": "x" * 200,
        "kernel": "6.1.0",
        "machine": "x86_64",
        "agent": __version__,
        "zone": "eu-1a",
    }
    assert not {"os", "zone"} & choose_facts({}, uname, None).keys()


async def test_facts_of_this_machine() -> None:
    found = await read_facts("eu-1a")
    assert (found["kernel"], found["zone"]) == (platform.release(), "eu-1a")


async def test_a_boot_has_one_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("boot-1\n")
    monkeypatch.setattr(facts, "BOOT_ID", boot_id)
    first = await read_boot_identity(tmp_path)
    assert first.startswith("boot-1.") and len(first) == len("boot-1.") + 16
    assert await read_boot_identity(tmp_path) == first
    boot_id.write_text("boot-2\n")
    second = await read_boot_identity(tmp_path)
    assert second.startswith("boot-2.") and second[7:] != first[7:]
    (tmp_path / "boot.json").write_text("[]")
    assert await read_boot_identity(tmp_path) not in (first, second)
