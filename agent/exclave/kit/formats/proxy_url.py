"""The URL of an HTTP proxy. Pure."""

from urllib.parse import urlsplit

from exclave.kit.formats.host_port import join_host_port

PORT = 80  # of a URL without one


def check_proxy_url(text: str) -> str:
    """The URL of an HTTP proxy, as http://HOST:PORT. Raises ValueError, whose text does not quote a login."""
    wanted = "a URL such as http://proxy.example.org:3128 was expected"
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wanted) from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{wanted}, without user and password, which belong into a file: cluster.proxy_credentials")
    if parts.scheme != "http":
        raise ValueError(f"{wanted}: a proxy that speaks HTTP, found {parts.scheme}")
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment or not _is_plain(host):
        raise ValueError(wanted)
    return f"http://{join_host_port(host, port or PORT)}"


def _is_plain(host: str) -> bool:
    return all(letter.isascii() and (letter.isalnum() or letter in ".-_:") for letter in host)
