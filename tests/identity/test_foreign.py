"""Which certificates others have had signed as this member, by what its status tells of the last few."""

import pytest

from exclave.api.member import Issued
from exclave.identity.foreign import describe_foreign, foreign_keys


@pytest.mark.parametrize(
    ("issued", "own", "foreign"),
    [
        pytest.param("", "a", "", id="nothing was signed yet"),
        pytest.param("abc", "abc", "", id="all of them are ours"),
        pytest.param("aXb", "ab", "X", id="one between ours is not"),
        pytest.param("aX", "a", "X", id="the newest one is not"),
        pytest.param("aXYb", "ab", "XY", id="two are not"),
        pytest.param("la", "a", "", id="one before the first that we know may have been lost when we joined"),
        pytest.param("VWXYZ", "a", "VWXYZ", id="so many that none of ours is left"),
        pytest.param("XY", "", "", id="a machine that knows no key of its own says nothing"),
    ],
)
def test_keys_of_others(issued: str, own: str, foreign: str) -> None:
    found = foreign_keys([Issued(f"{place}", key, "t") for place, key in enumerate(issued)], set(own))
    assert "".join(one.key_sha256 for one in found) == foreign


def test_they_are_told_with_serial_and_time() -> None:
    assert describe_foreign(()) is None
    assert describe_foreign([Issued("7a", "k", "2027-01-15T08:00:00Z"), Issued("7b", "k", "2027-01-15T09:00:00Z")]) == (
        "certificates were signed as this member for keys that this machine never had: 7a at 2027-01-15T08:00:00Z, "
        "7b at 2027-01-15T09:00:00Z"
    )
