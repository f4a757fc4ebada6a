"""What is on record of a table that was made, and every reason to take no account of it."""

import json
from pathlib import Path

import pytest

from exclave.redirect.applied import Made, forget_rules
from exclave.redirect.kernel.observe import Observed

RULES = "table inet exclave { }"
LISTED = Observed(installed=True, fingerprint="as it was made")


def test_what_was_noted_is_known_for_the_same_rules_alone(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert made.fingerprint_of(RULES) is None
    made.note(RULES, LISTED)
    assert Made(tmp_path).fingerprint_of(RULES) == "as it was made"
    assert Made(tmp_path).fingerprint_of(f"{RULES}\n") is None


OTHERWISE = {
    "nothing": "",
    "half of it": '{"rules": "',
    "a list": "[]",
    "null": "null",
    "no fingerprint": '{"rules": "", "boot_id": ""}',
}


@pytest.mark.parametrize("text", OTHERWISE.values(), ids=OTHERWISE)
def test_a_damaged_record_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(text)
    assert Made(tmp_path).fingerprint_of(RULES) is None


def test_a_record_of_an_earlier_boot_says_nothing(tmp_path: Path) -> None:
    Made(tmp_path).note(RULES, LISTED)
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another"}))
    assert Made(tmp_path).fingerprint_of(RULES) is None


def test_it_is_forgotten_as_often_as_one_likes(tmp_path: Path) -> None:
    Made(tmp_path).note(RULES, LISTED)
    for _ in range(2):
        forget_rules(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Made(tmp_path / "absent").note(RULES, LISTED)
    (message,) = caplog.messages
    assert message.startswith("redirect: the next agent will make its rules anew: cannot write ")
