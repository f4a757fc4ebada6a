"""Key and certificate on a disk: whole, readable by root only, not lost when the disk is full."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from exclave.api.csr import key_sha256
from exclave.errors import Fault, HostError
from exclave.identity.storage import (
    NEXT_KEY,
    RECORDED_KEYS,
    SVID,
    forget_next_key,
    generate_key,
    load_next_key,
    load_svid,
    own_keys,
    record_key,
    remove_identity,
    store_next_key,
    store_svid,
)
from exclave_sandbox.pki import key_pem_of
from support.certificates import KEY, OTHER_KEY


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def same(one: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePrivateKey) -> bool:
    return one.private_numbers() == other.private_numbers()


def test_a_certificate_comes_back_with_its_key_and_times(tmp_path: Path) -> None:
    store_svid(tmp_path, "chain", KEY, 1000.25, 1600.5)
    found = load_svid(tmp_path)
    assert found is not None
    assert (found[0], found[2], found[3]) == ("chain", 1000.25, 1600.5)
    assert same(found[1], KEY)
    assert (tmp_path / SVID).stat().st_mode & 0o777 == 0o600


def test_the_key_of_a_csr_under_way_survives_until_its_certificate_is_stored(tmp_path: Path) -> None:
    store_next_key(tmp_path, KEY, "csr")
    assert (tmp_path / NEXT_KEY).stat().st_mode & 0o777 == 0o600
    found = load_next_key(tmp_path)
    assert found is not None
    assert same(found[0], KEY) and found[1] == "csr"
    store_svid(tmp_path, "chain", KEY, 0.0, 1.0)
    assert load_next_key(tmp_path) is None


def test_forgetting_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    forget_next_key(tmp_path)
    remove_identity(tmp_path)
    store_next_key(tmp_path, KEY, "csr")
    store_svid(tmp_path, "chain", KEY, 0.0, 1.0)
    store_next_key(tmp_path, OTHER_KEY, "csr")
    remove_identity(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_remembers_which_keys_it_has_had_of_late(tmp_path: Path) -> None:
    assert own_keys(tmp_path) == set()
    record_key(tmp_path, KEY)
    assert own_keys(tmp_path) == set(), "nothing stands beside which it could be remembered"
    store_next_key(tmp_path, KEY, "csr")
    assert own_keys(tmp_path) == {named(KEY)}
    store_svid(tmp_path, "chain", KEY, 0.0, 1.0)
    record_key(tmp_path, OTHER_KEY)
    store_svid(tmp_path, "chain", KEY, 0.0, 1.0)
    store_svid(tmp_path, "chain", KEY, 0.0, 1.0)
    assert own_keys(tmp_path) == {named(KEY), named(OTHER_KEY)}
    keys = [generate_key() for _ in range(RECORDED_KEYS)]
    for key in keys:
        store_svid(tmp_path, "chain", key, 0.0, 1.0)
    assert own_keys(tmp_path) == {named(key) for key in keys}


def test_a_certificate_stored_by_an_older_version_names_its_key_alone(tmp_path: Path) -> None:
    store_svid(tmp_path, "chain", KEY, 0.0, 1.0)
    tree = json.loads((tmp_path / SVID).read_text())
    del tree["keys"]
    (tmp_path / SVID).write_text(json.dumps(tree))
    assert load_svid(tmp_path) is not None and own_keys(tmp_path) == {named(KEY)}


def named(key: ec.EllipticCurvePrivateKey) -> str:
    return key_sha256(key.public_key())


def rsa_key() -> str:
    return (
        rsa.generate_private_key(65537, 2048)
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="an empty file"),
        pytest.param('{"key": "x", "chain": "c", "received": 0, "renewAt": 1, "csr": "c"}', id="a key that is none"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="nothing in it"),
        pytest.param('{"key": 1, "chain": "c", "received": "never", "renewAt": 1}', id="wrong types"),
        pytest.param('{"key": "' + rsa_key().replace("\n", "\\n") + '", "chain": "c", "csr": "c"}', id="another kind"),
        pytest.param(
            json.dumps({"key": key_pem_of(KEY), "chain": "c", "received": 10**400, "renewAt": 1}),
            id="a time without end",
        ),
        pytest.param("[" * 100_000, id="nested without end"),
        pytest.param("\udcff", id="not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_as_none(tmp_path: Path, content: str) -> None:
    for name in (SVID, NEXT_KEY):
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert load_svid(tmp_path) is None
    assert load_next_key(tmp_path) is None
    record_key(tmp_path, KEY)
    assert own_keys(tmp_path) <= {named(KEY)}


def test_a_fresh_key_is_p256_and_never_the_same() -> None:
    one, other = generate_key(), generate_key()
    assert isinstance(one.curve, ec.SECP256R1)
    assert not same(one, other)


def test_on_a_full_disk_the_old_certificate_stays_and_an_error_is_raised(tiny_disk: Path) -> None:
    store_svid(tiny_disk, "old", KEY, 1.0, 2.0)
    store_next_key(tiny_disk, OTHER_KEY, "csr")
    (tiny_disk / "filler").write_bytes(b"x" * 4096 * 13)
    with pytest.raises(HostError) as refused:
        store_svid(tiny_disk, "new" * 20000, OTHER_KEY, 3.0, 4.0)
    assert refused.value.fault is Fault.DISK
    assert refused.value.message == f"cannot write {tiny_disk}/svid.json: No space left on device"
    assert refused.value.hint == "free some space on that disk; the file that was there is untouched"
    found, under_way = load_svid(tiny_disk), load_next_key(tiny_disk)
    assert found is not None and found[0] == "old" and same(found[1], KEY)
    assert under_way is not None and same(under_way[0], OTHER_KEY), "its certificate can be asked for again"
    assert sorted(path.name for path in tiny_disk.iterdir()) == ["filler", "next.key", "svid.json"]


def test_a_read_only_disk_is_an_error_with_a_hint(tiny_disk: Path) -> None:
    store_svid(tiny_disk, "old", KEY, 1.0, 2.0)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(HostError) as refused:
        store_svid(tiny_disk, "new", OTHER_KEY, 3.0, 4.0)
    assert refused.value.message == f"cannot write {tiny_disk}/svid.json: Read-only file system"
    assert refused.value.hint == "mount that filesystem writable; the file that was there is untouched"
    found = load_svid(tiny_disk)
    assert found is not None and found[0] == "old"
