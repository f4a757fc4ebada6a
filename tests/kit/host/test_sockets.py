"""The kernel's tables of sockets, in the shapes of a real kernel."""

import pytest

from exclave.kit.host.sockets import ESTABLISHED, Socket, read_sockets

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
REST = "00000000:00000000 00:00000000 00000000 65534 0 77 1 0 20 4 30 10 -1\n"

PLACES = {
    "IPv4": ("014DFEA9:102F", ("169.254.77.1", 4143)),
    "IPv6": ("1AEC77FD00007E000000000001000000:102C", ("fd77:ec1a:7e::1", 4140)),
    "IPv4 in an IPv6 socket": ("0000000000000000FFFF0000014DFEA9:102F", ("169.254.77.1", 4143)),
}


@pytest.mark.parametrize(("text", "place"), PLACES.values(), ids=PLACES)
def test_both_ends_of_a_socket_and_whose_it_is(text: str, place: tuple[str, int]) -> None:
    (socket,) = read_sockets(f"{HEAD}   0: {text} 1E004D0A:1F9A 01 {REST}")
    assert socket == Socket(place, ("10.77.0.30", 8090), ESTABLISHED, 65534, 77)


def test_an_empty_table_has_none() -> None:
    assert [*read_sockets(""), *read_sockets(HEAD)] == []


@pytest.mark.parametrize("line", ["", "0:", "   0: 0100007F:0016 00000000:0000 0A", f"   0: x 1E004D0A:1F9A 01 {REST}"])
def test_a_line_that_is_no_socket_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        list(read_sockets(f"{HEAD}{line}\n"))
