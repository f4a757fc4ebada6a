"""URLs of HTTP proxies."""

import pytest

from exclave.kit.formats.proxy_url import check_proxy_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://proxy.example.org:3128", "http://proxy.example.org:3128"),
        ("http://proxy.example.org/", "http://proxy.example.org:80"),
        ("proxy.example.org:3128", "http://proxy.example.org:3128"),
        ("HTTP://10.0.0.9:8080", "http://10.0.0.9:8080"),
        ("http://[fd00::9]:8080", "http://[fd00::9]:8080"),
    ],
)
def test_a_url_is_brought_to_one_form(text: str, url: str) -> None:
    assert check_proxy_url(text) == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://proxy.example.org", "a proxy that speaks HTTP, found https"),
        ("socks5://proxy.example.org", "a proxy that speaks HTTP, found socks5"),
        ("http://me:s3cret@proxy.example.org", "without user and password, which belong into a file"),
        ("http://", "a URL such as http://proxy.example.org:3128 was expected"),
        ("http://proxy:port", "was expected"),
        ("http://proxy:99999", "was expected"),
        ("http://proxy/path", "was expected"),
        ("http://pro xy", "was expected"),
        ("http://[fd00", "was expected"),
        ("http://proxy\r\nX: y", "was expected"),
    ],
)
def test_what_is_no_http_proxy_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_proxy_url(text)
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)
