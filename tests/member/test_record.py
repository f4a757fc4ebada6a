"""Records are read back; a damaged one is an error that says what is wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.api.settings import digest, render_settings
from exclave.errors import Fault, HostError
from exclave.member.record import (
    EvictionNote,
    JoinRecord,
    LastAnswer,
    forget_eviction,
    forget_join,
    forget_membership,
    load_answer,
    load_eviction,
    load_join,
    load_membership,
    load_settings,
    store_answer,
    store_eviction,
    store_join,
    store_membership,
    store_settings,
    touch_answer,
    trusted_cas,
)
from exclave_sandbox.pki import make_anchor
from support.mesh import RECORD, make_settings

JOIN = JoinRecord("nonce", "web-k7q2x-1", "ab" * 32, "-----BEGIN PRIVATE KEY-----")


def test_a_membership_reads_back(tmp_path: Path) -> None:
    assert load_membership(tmp_path) is None
    store_membership(tmp_path, RECORD)
    assert load_membership(tmp_path) == RECORD
    store_membership(tmp_path, replace(RECORD, leaving=True))
    assert load_membership(tmp_path) == replace(RECORD, leaving=True)
    assert (tmp_path / "membership.json").stat().st_mode & 0o777 == 0o600
    forget_membership(tmp_path)
    assert list(tmp_path.iterdir()) == []
    forget_membership(tmp_path)  # again, from nothing


def test_an_older_agent_reads_what_a_newer_one_left_unless_its_address_moves(tmp_path: Path) -> None:
    store_membership(tmp_path, RECORD)
    assert "former" not in json.loads((tmp_path / "membership.json").read_text())
    moving = replace(RECORD, address="10.77.0.21", former=RECORD.address)
    store_membership(tmp_path, moving)
    assert load_membership(tmp_path) == moving


def test_the_cas_are_the_tokens_the_published_ones_and_those_of_a_new_join(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, published, again = (make_anchor(name).pem for name in ("first", "published", "again"))
    record = replace(RECORD, ca=first)
    assert trusted_cas(tmp_path, record) == first
    store_settings(tmp_path, render_settings(replace(make_settings(), server_ca=first + published)))
    assert trusted_cas(tmp_path, record).count("BEGIN") == 3
    assert published in trusted_cas(tmp_path, record)
    store_membership(tmp_path / "again", replace(record, ca=again, servers=("https://10.9.9.9:6443",)))
    assert again not in trusted_cas(tmp_path, record), "another cluster's"
    store_membership(tmp_path / "again", replace(record, ca=again))
    assert again in trusted_cas(tmp_path, record)
    assert trusted_cas(tmp_path, replace(record, ca="")) == "", "the machine's own CAs, and no others"


def test_a_membership_has_its_account() -> None:
    assert (RECORD.account, RECORD.accounts_namespace) == ("web.vm.k7q2x-1", "shop-vms")
    assert RECORD.access.servers == RECORD.servers


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "a JSON object was expected"),
        ("{}", "KeyError('servers')"),
        (
            '{"servers": ["http://x"], "ca": "", "namespace": "n", "group": "g", "member": "g-abcde-1"}',
            "'http://x' is not a URL such as https://10.0.0.1:6443",
        ),
        (
            '{"servers": [7], "ca": "", "namespace": "n", "group": "g", "member": "g-abcde-1"}',
            "servers, ca, namespace, group and member were expected as texts",
        ),
    ],
    ids=["cut off", "no object", "empty", "a server without https", "a server that is a number"],
)
def test_a_damaged_membership_is_an_error_with_a_hint(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "membership.json").write_text(text)
    with pytest.raises(HostError) as caught:
        load_membership(tmp_path)
    assert caught.value.fault is Fault.DISK
    assert caught.value.message == f"{tmp_path}/membership.json is damaged: {why}"
    assert caught.value.hint == f"remove {tmp_path} and join again with a new token; delete the old Member with kubectl"


def test_a_join_record_reads_back_and_shows_no_key(tmp_path: Path) -> None:
    assert load_join(tmp_path) is None
    store_join(tmp_path, JOIN)
    assert load_join(tmp_path) == JOIN
    assert "PRIVATE" not in repr(JOIN)
    forget_join(tmp_path)
    assert load_join(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"nonce": "n"}', '{"odd": 1}'])
def test_a_join_record_of_no_use_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "join.json").write_text(text)
    assert load_join(tmp_path) is None


def test_settings_read_back_with_their_digest_and_damaged_ones_are_none(tmp_path: Path) -> None:
    assert load_settings(tmp_path) is None
    settings = make_settings()
    store_settings(tmp_path, render_settings(settings))
    assert load_settings(tmp_path) == (settings, digest(render_settings(settings)))
    (tmp_path / "settings.json").write_bytes(b"\xff{")
    assert load_settings(tmp_path) is None


def test_an_eviction_is_noted_until_the_next_membership(tmp_path: Path) -> None:
    store_eviction(tmp_path, RECORD, 100.0)
    assert load_eviction(tmp_path) == EvictionNote("shop", "web", "web-k7q2x-1", 100.0)
    (tmp_path / "evicted.json").write_text("{}")
    assert load_eviction(tmp_path) is None
    forget_eviction(tmp_path)
    assert list(tmp_path.iterdir()) == []


READ_ONLY = """\
import sys
from pathlib import Path
from exclave.errors import HostError
from exclave.kit.host.files import make_folder
from exclave.member.record import load_membership
state = Path(sys.argv[1])
make_folder(state, 0o700)
print(load_membership(state).member)
for folder, mode in ((state, 0o755), (state / "again", 0o700)):
    try:
        make_folder(folder, mode)
    except HostError as error:
        print(error.message, error.hint, sep=": ")
"""


def test_a_member_is_read_from_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    store_membership(tmp_path, RECORD)
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@" "$0"'
    shell = ["unshare", "--mount", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", READ_ONLY]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        RECORD.member,
        f"cannot change the mode of folder {tmp_path} to 755: Read-only file system: make it writable for root",
        f"cannot make folder {tmp_path}/again: Read-only file system: make its parent writable for root",
    ], done.stderr


def test_the_last_answer_is_loaded_with_its_time_for_its_own_member(tmp_path: Path) -> None:
    answer = LastAnswer(RECORD.namespace, RECORD.member, True, (8080, 9090), False)
    assert load_answer(tmp_path, RECORD) is None
    touch_answer(tmp_path, 1_800_000_000.0)
    assert load_answer(tmp_path, RECORD) is None
    store_answer(tmp_path, answer)
    touch_answer(tmp_path, 1_800_000_000.0)
    assert load_answer(tmp_path, RECORD) == (answer, 1_800_000_000.0)
    assert load_answer(tmp_path, replace(RECORD, member="web-k7q2x-9")) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ports": 3}', '{"ports": ["x"]}', '{"ports": [], "more": 1}'])
def test_a_damaged_last_answer_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "last-answer.json").write_text(text)
    assert load_answer(tmp_path, RECORD) is None
