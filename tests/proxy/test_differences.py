"""When a proxy that runs is another than the one that is wanted."""

import pytest

from exclave.proxy.differences import Difference, differences

ROWS: dict[str, tuple[tuple[object, ...], set[Difference]]] = {
    "the same": ((("e", "p"), ("e", "p")), set()),
    "told other settings": ((("e", "p"), ("f", "p")), {Difference.ENVIRONMENT}),
    "another binary on disk": ((("e", "p"), ("e", "q")), {Difference.BINARY}),
    "both": ((("e", "p"), ("f", "q")), {Difference.ENVIRONMENT, Difference.BINARY}),
    "the record does not say what it runs": ((("e", None), ("e", "q")), set()),
    "there is no binary on disk": ((("e", "p"), ("e", None)), set()),
    "this machine has no address": ((("e", "p"), (None, "p")), set()),
    "at its limit": ((("e", "p"), ("e", "p"), 100, 100), set()),
    "over its limit": ((("e", "p"), ("e", "p"), 101, 100), {Difference.MEMORY}),
    "its memory is not known": ((("e", "p"), ("e", "p"), None, 100), set()),
}


@pytest.mark.parametrize(("given", "found"), ROWS.values(), ids=ROWS)
def test_how_they_differ(given: tuple[object, ...], found: set[Difference]) -> None:
    assert differences(*given) == found  # type: ignore[arg-type]
