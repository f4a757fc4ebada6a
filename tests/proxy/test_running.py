"""How an end is told. What a held process lives through, `test_instance` plays with real ones."""

import pytest

from exclave.proxy.running import describe_end


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (-15, "was ended by SIGTERM"),
        (None, "ended (an earlier agent started it, so its exit status is unknown)"),
    ],
)
def test_an_end_in_words(status: int | None, words: str) -> None:
    assert describe_end(status) == words
