"""A host and a port as one text, written and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.kit.formats.host_port import join_host_port, split_host_port

TEXTS = {
    "10.42.0.9:80": ("10.42.0.9", 80),
    "[fd00::1]:443": ("fd00::1", 443),
    "web.shop.svc.cluster.local:65535": ("web.shop.svc.cluster.local", 65535),
    ":8080": ("", 8080),
}


@pytest.mark.parametrize(("text", "host_port"), TEXTS.items())
def test_what_is_written_and_read(text: str, host_port: tuple[str, int]) -> None:
    assert split_host_port(text) == host_port
    assert join_host_port(*host_port) == text


@given(some.ip_addresses(), some.integers(1, 65535))
def test_every_address_and_port_that_is_written_is_read(address: object, port: int) -> None:
    assert split_host_port(join_host_port(str(address), port)) == (str(address), port)


REFUSED = {
    "": "a port from 1 to 65535 was expected after the last colon, found ''",
    "10.42.0.9": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9'",
    "10.42.0.9:": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:'",
    "10.42.0.9:http": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:http'",
    "10.42.0.9:0": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:0'",
    "10.42.0.9:65536": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:65536'",
    "10.42.0.9:٨٠": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:٨٠'",
    "fd00::1:80": "an IPv6 address in brackets was expected, such as [fd00::1]:80, found 'fd00::1:80'",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=REFUSED)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        split_host_port(text)
    assert str(caught.value) == message


def test_port_0_is_read_where_it_stands_for_any_free_port() -> None:
    assert split_host_port("127.0.0.1:0", lowest=0) == ("127.0.0.1", 0)
    with pytest.raises(ValueError, match="a port from 0 to 65535"):
        split_host_port("127.0.0.1", lowest=0)


@given(some.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        _, port = split_host_port(text)
    except ValueError:
        return
    assert 1 <= port <= 65535
