"""What is on record of a table that was made, and every reason to take no account of it."""

import json
from pathlib import Path

import pytest

from exclave.redirect.applied import AppliedRecord, remove_applied
from exclave.redirect.kernel.observe import Observed

RULES = "table inet exclave { }"
LISTED = Observed(installed=True, fingerprint="as it was made")


def test_a_fingerprint_is_found_for_the_same_rules_only(tmp_path: Path) -> None:
    made = AppliedRecord(tmp_path)
    assert made.find_fingerprint(RULES) is None
    made.store(RULES, LISTED)
    assert AppliedRecord(tmp_path).find_fingerprint(RULES) == "as it was made"
    assert AppliedRecord(tmp_path).find_fingerprint(f"{RULES}\n") is None


OTHERWISE = {
    "nothing": "",
    "half of it": '{"rules": "',
    "a list": "[]",
    "null": "null",
    "no fingerprint": '{"rules": "", "boot_id": ""}',
}


@pytest.mark.parametrize("text", OTHERWISE.values(), ids=OTHERWISE)
def test_a_damaged_record_is_ignored(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(text)
    assert AppliedRecord(tmp_path).find_fingerprint(RULES) is None


def test_a_record_of_an_earlier_boot_is_ignored(tmp_path: Path) -> None:
    AppliedRecord(tmp_path).store(RULES, LISTED)
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another"}))
    assert AppliedRecord(tmp_path).find_fingerprint(RULES) is None


def test_it_is_forgotten_as_often_as_one_likes(tmp_path: Path) -> None:
    AppliedRecord(tmp_path).store(RULES, LISTED)
    for _ in range(2):
        remove_applied(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    AppliedRecord(tmp_path / "absent").store(RULES, LISTED)
    (message,) = caplog.messages
    assert message.startswith("redirect: the next agent will make its rules again: cannot write ")
