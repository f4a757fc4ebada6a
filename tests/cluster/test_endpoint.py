"""Where the API server is."""

import pytest

from exclave.cluster.endpoint import Access, address_in_url, host_and_port, in_turn

CA = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_an_access_has_servers_and_a_ca() -> None:
    access = Access(("https://10.0.0.1:6443",), CA)
    assert access.servers == ("https://10.0.0.1:6443",)


@pytest.mark.parametrize(
    ("servers", "ca", "text"),
    [
        pytest.param((), CA, "at least one API server was expected", id="no server"),
        pytest.param(
            ("http://10.0.0.1",), CA, "'http://10.0.0.1' is not a URL such as https://10.0.0.1:6443", id="no TLS"
        ),
        pytest.param(
            ("https://admin:secret@10.0.0.1",),
            CA,
            "'https://admin:secret@10.0.0.1' is not a URL such as https://10.0.0.1:6443",
            id="a user in the URL",
        ),
        pytest.param(("https://10.0.0.1",), "PEM", "the CA must be one PEM certificate or more", id="no CA"),
    ],
)
def test_what_cannot_be_an_access_is_refused(servers: tuple[str, ...], ca: str, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Access(servers, ca)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("https://10.0.0.1:6443", ("10.0.0.1", 6443)),
        ("https://api.example.org", ("api.example.org", 443)),
        ("https://[fd00::1]:6443", ("fd00::1", 6443)),
        ("https://rancher.example.org/k8s/clusters/c-1", ("rancher.example.org", 443)),
    ],
)
def test_host_and_port_of_a_server(server: str, expected: tuple[str, int]) -> None:
    assert host_and_port(server) == expected


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("https://10.0.0.1:6443", "10.0.0.1"),
        ("https://[FD00::1]:6443", "fd00::1"),
        ("https://[fe80::1%25eth0]", "fe80::1"),
        ("https://api.example.org", None),
        ("https://10.0.0.1.example.org", None),
    ],
)
def test_the_address_in_a_url(server: str, expected: str | None) -> None:
    assert address_in_url(server) == expected


def test_the_server_that_worked_is_first_and_the_others_are_in_their_order() -> None:
    assert in_turn(("a", "b", "c"), "b") == ("b", "a", "c")
    assert in_turn(("a", "b", "c"), "gone") == ("a", "b", "c")
