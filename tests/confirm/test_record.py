"""unconfirmed.json: what is read is what was written, and damage confirms nothing."""

from pathlib import Path

import pytest

from exclave.confirm.record import Unconfirmed, forget_unconfirmed, load_unconfirmed, store_unconfirmed


@pytest.mark.parametrize("record", [Unconfirmed(60.0), Unconfirmed(0.5, begun=True)])
def test_what_is_read_is_what_was_written(tmp_path: Path, record: Unconfirmed) -> None:
    store_unconfirmed(tmp_path, record)
    assert load_unconfirmed(tmp_path) == record


def test_it_is_forgotten_once(tmp_path: Path) -> None:
    assert load_unconfirmed(tmp_path) is None
    store_unconfirmed(tmp_path, Unconfirmed(60.0))
    assert forget_unconfirmed(tmp_path)
    assert not forget_unconfirmed(tmp_path)
    assert load_unconfirmed(tmp_path) is None


NO_END, WORDS = b'{"seconds": 60}', b'{"seconds": "x", "begun": 1}'
DEEP, LONG = b"[" * 100_000, b'{"seconds": 1' + b"0" * 400 + b', "begun": true}'


@pytest.mark.parametrize("text", [b"", b"{", b"[]", NO_END, WORDS, b"\xff", DEEP, LONG])
def test_damage_confirms_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "unconfirmed.json").write_bytes(text)
    assert load_unconfirmed(tmp_path) == Unconfirmed(0.0, begun=True)
