"""Routes as the kernel answers them."""

import pytest

from exclave.kit.host.routes import Route, parse_route, read_route
from redirect.lab import CLUSTER4, CLUSTER6, VM4, VM6, open_lab


async def test_the_kernel_answers_with_a_route_or_a_reason() -> None:
    async with open_lab():
        assert await read_route(CLUSTER4) == Route("unicast", "eth0", VM4)
        assert await read_route(CLUSTER6, "uid", "1000") == Route("unicast", "eth0", VM6)
        assert await read_route(VM4) == Route("local", "lo", VM4)
        assert await read_route("192.0.2.1") == "Network is unreachable"


@pytest.mark.parametrize("listing", [b"", b"[]", b"7", b"[null]", b"[{}]", b"[" * 100_000])
def test_other_output_than_a_route_is_refused(listing: bytes) -> None:
    with pytest.raises(ValueError, match="ip -json route get: its JSON was expected"):
        parse_route(listing)
