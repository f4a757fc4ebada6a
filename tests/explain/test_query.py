"""Words after `exclave explain`, read."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.explain.query import Query, parse_query
from exclave.kit.formats.host_port import join_host_port

READ = {
    "10.42.0.9:80": Query("outbound", "10.42.0.9", 80),
    "outbound 10.42.0.9:80": Query("outbound", "10.42.0.9", 80),
    "[FD00:0::1]:443": Query("outbound", "fd00::1", 443),
    "web.shop.svc.cluster.local:80": Query("outbound", "web.shop.svc.cluster.local", 80, is_name=True),
    "web_1.shop.:80": Query("outbound", "web_1.shop.", 80, is_name=True),
    "localhost:65535": Query("outbound", "localhost", 65535, is_name=True),
    "inbound :8080": Query("inbound", "", 8080),
    "inbound 10.77.0.20:8080": Query("inbound", "10.77.0.20", 8080),
    "inbound [fd00:77::20]:8080": Query("inbound", "fd00:77::20", 8080),
}


@pytest.mark.parametrize("words", READ)
def test_what_is_read(words: str) -> None:
    assert parse_query(words.split()) == READ[words]


REFUSED = {
    "": "one destination was expected, such as 10.42.0.9:80, found none",
    "inbound": "one destination was expected, such as 10.42.0.9:80, found none",
    "10.42.0.9:80 10.42.0.9:81": "one destination was expected, such as 10.42.0.9:80, found 10.42.0.9:80 10.42.0.9:81",
    "10.42.0.9": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9'",
    "10.42.0.9:http": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:http'",
    "10.42.0.9:65536": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:65536'",
    ":80": "an address or a name was expected before the port, found ':80'",
    "fd00::1:80": "an IPv6 address in brackets was expected, such as [fd00::1]:80, found 'fd00::1:80'",
    "10.42.0:80": "an address or a name was expected before the port, found '10.42.0:80'",
    "[fe80::1%eth0]:80": "an address or a name was expected before the port, found '[fe80::1%eth0]:80'",
    "-x:80": "an address or a name was expected before the port, found '-x:80'",
    "inbound web:80": "an address of this machine was expected, found web",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=REFUSED)
def test_what_is_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_query(words.split())
    assert str(caught.value) == message


@given(some.ip_addresses(), some.integers(1, 65535))
def test_what_is_written_is_read(address: object, port: int) -> None:
    query = parse_query([join_host_port(str(address), port)])
    assert (query.host, query.port, str(query)) == (str(address), port, join_host_port(str(address), port))


@given(some.text(max_size=30))
def test_no_text_breaks_it(text: str) -> None:
    try:
        query = parse_query([text])
    except ValueError:
        return
    assert 1 <= query.port <= 65535
