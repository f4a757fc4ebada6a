"""The HTTP proxy to the API server: which one, for which servers, and Debian's tinyproxy between agent and server."""

import base64
import logging
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509

from exclave.api.requests import MEMBERS, Request, get
from exclave.cluster.endpoint import Access, ServerAddress
from exclave.cluster.http import open_exchange
from exclave.cluster.http_proxy import HttpProxy, choose_proxy, split_login
from exclave.cluster.server_addresses import open_server_addresses
from exclave.errors import ClusterError
from exclave_sandbox.pki import make_anchor, make_leaf
from support.https_server import Asked, Reply, open_https
from support.needs import free_port, need

ASK = get(MEMBERS, "shop", "web-1")
WATCH = Request("GET", "/watch", "watch", "members", {"watch": "1"})
OURS = HttpProxy("http://proxy:3128")


@pytest.mark.parametrize(
    ("configured", "offered", "environment", "expected"),
    [
        pytest.param(None, "", {}, None, id="none"),
        pytest.param("http://a:1", "http://c:3", {"https_proxy": "http://b:2"}, "http://a:1", id="config.toml first"),
        pytest.param(None, "http://c:3", {"https_proxy": "http://b:2"}, "http://b:2", id="then the environment"),
        pytest.param(None, "http://c:3", {"HTTPS_PROXY": "b:2"}, "http://b:2", id="in capitals, without a scheme"),
        pytest.param(None, "http://c:3", {"https_proxy": ""}, "http://c:3", id="then the join token's"),
        pytest.param(None, "http://c:3", {"https_proxy": "socks5://b"}, "http://c:3", id="one of another kind"),
        pytest.param(None, "", {"http_proxy": "http://b:2"}, None, id="one for plain HTTP"),
    ],
)
def test_which_proxy_is_used(
    configured: str | None, offered: str, environment: dict[str, str], expected: str | None
) -> None:
    found = choose_proxy(configured, (), None, offered, environment)
    assert (found.url if found else None) == expected


def test_a_login_of_the_environment_is_used_and_not_shown() -> None:
    found = choose_proxy(None, (), None, "", {"https_proxy": "http://me:s3%40cret@proxy:3128"})
    assert found is not None
    assert (found.url, found.login) == ("http://proxy:3128", ("me", "s3@cret"))
    assert "cret" not in repr(found)


@pytest.mark.parametrize(
    ("bypass", "host", "port", "is_direct"),
    [
        ("*", "api.example.org", 6443, True),
        ("example.org", "api.example.org", 6443, True),
        ("example.org", "example.org", 6443, True),
        (".example.org", "example.org", 6443, False),
        ("*.example.org", "api.EXAMPLE.org", 6443, True),
        ("ample.org", "example.org", 6443, False),
        ("example.org:443", "api.example.org", 6443, False),
        ("example.org:6443", "api.example.org", 6443, True),
        ("10.0.0.0/8", "10.1.2.3", 6443, True),
        ("10.0.0.0/8", "api.example.org", 6443, False),
        ("10.1.2.3:443", "10.1.2.3", 6443, False),
        ("fd00::/8", "fd00::1", 6443, True),
        ("[fd00::1]:6443", "fd00::1", 6443, True),
        ("", "api.example.org", 6443, False),
    ],
)
def test_servers_that_are_reached_without_it(bypass: str, host: str, port: int, *, is_direct: bool) -> None:
    assert HttpProxy("http://proxy:3128", (bypass,)).serves(host, port) is not is_direct


def test_no_proxy_of_the_environment_holds_unless_there_is_one_in_config_toml() -> None:
    environment = {"https_proxy": "http://b:2", "no_proxy": "10.0.0.0/8, .svc"}
    of_environment = choose_proxy(None, (), None, "", environment)
    of_file = choose_proxy("http://a:1", ("api.example.org",), None, "", environment)
    assert of_environment is not None and of_file is not None
    assert not of_environment.serves("10.0.0.1", 6443) and not of_environment.serves("127.0.0.1", 6443)
    assert of_file.serves("10.0.0.1", 6443) and not of_file.serves("api.example.org", 6443)


@pytest.mark.parametrize("content", [b"", b"me", b":x", b"me:a\nme:b", b"me:a b", b"m\xff:x", b"a:" + 2000 * b"x"])
def test_a_file_without_a_login_is_refused_and_not_quoted(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(one line USER:PASSWORD was expected|it is not text)$"):
        split_login(content)
    assert split_login(b"me:s3:cret\r\n") == ("me", "s3:cret")


async def test_the_addresses_are_those_of_the_proxy(tmp_path: Path) -> None:
    proxy = HttpProxy("http://192.0.2.9:3128", ("10.0.0.2",))
    access = Access(("https://10.0.0.1:6443", "https://10.0.0.2:6443", "https://10.0.0.3:6443"), "", proxy=proxy)
    assert access.endpoints == ("http://192.0.2.9:3128", "https://10.0.0.2:6443")
    async with open_server_addresses(access.endpoints, tmp_path) as addresses:
        assert addresses.value == (ServerAddress("192.0.2.9", 3128), ServerAddress("10.0.0.2", 6443))


# Debian's tinyproxy.


async def answer_object(asked: Asked, reply: Reply) -> None:
    if asked.target.startswith("/watch"):
        await reply.start(200, **{"Content-Type": "application/json"})
        await reply.line({"type": "ADDED"})
        await trio.sleep_forever()
    await reply.send(200, {"kind": "Member", "path": asked.target})


@asynccontextmanager
async def open_tinyproxy(folder: Path, *more: str) -> AsyncIterator[tuple[str, Path]]:
    """A proxy on loopback: its URL and its log."""
    program = shutil.which("tinyproxy")
    need(program is not None, "tinyproxy is not installed: apt install tinyproxy-bin")
    port, log, settings = free_port(), folder / "tinyproxy.log", folder / "tinyproxy.conf"
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 60", f'LogFile "{log}"', "LogLevel Connect", *more]
    settings.write_text("\n".join(lines) + "\n")
    process = await trio.lowlevel.open_process([str(program), "-d", "-c", str(settings)], stdout=subprocess.DEVNULL)
    try:
        with trio.fail_after(10):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.01)
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()
        await process.wait()


def login_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "login"
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_requests_and_watches_go_through_it_and_no_log_has_its_login(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    login = login_file(tmp_path, "me:s3cret\n")
    async with open_https(answer_object) as served, open_tinyproxy(tmp_path, "BasicAuth me s3cret") as (url, log):
        access = Access((served.url,), served.ca, proxy=HttpProxy(url, login_file=login))
        async with open_exchange(access, lambda: "t", lambda: 0.0) as exchange:
            assert (await exchange.answer(ASK))["kind"] == "Member"
            async with exchange.open_stream(WATCH) as received:
                assert await received.__anext__() == b'{"type": "ADDED"}\n'
        assert "proxy-authorization" not in served.asked[0].headers
    assert log.read_text().count(f"CONNECT {served.url.removeprefix('https://')}") == 2
    secret = base64.b64encode(b"me:s3cret").decode()
    assert "s3cret" not in caplog.text and secret not in caplog.text


async def test_a_login_that_is_wrong_is_read_again_for_the_next_request(tmp_path: Path) -> None:
    login = login_file(tmp_path, "me:old")
    async with open_https(answer_object) as served, open_tinyproxy(tmp_path, "BasicAuth me s3cret") as (url, _):
        access = Access((served.url,), served.ca, proxy=HttpProxy(url, login_file=login))
        async with open_exchange(access, lambda: "t", lambda: 0.0) as exchange:
            with pytest.raises(ClusterError) as caught:
                await exchange.answer(ASK)
            assert caught.value.message == f"{served.url}: the HTTP proxy {url} demands another login"
            assert "cluster.proxy_credentials" in caught.value.hint
            login.write_text("me:s3cret")
            assert (await exchange.answer(ASK))["kind"] == "Member"


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (None, 0, "No such file or directory"),
        ("me:s3cret", 0o644, "it must belong to root, with mode 0600"),
        ("s3cret", 0o600, "one line USER:PASSWORD was expected"),
    ],
)
async def test_a_login_that_cannot_be_used_ends_the_request_and_is_not_quoted(
    tmp_path: Path, text: str | None, mode: int, why: str
) -> None:
    path = tmp_path / "login" if text is None else login_file(tmp_path, text, mode)
    access = Access(("https://127.0.0.1:1",), make_anchor().pem, proxy=HttpProxy("http://127.0.0.1:2", (), path))
    async with open_exchange(access, lambda: "t", lambda: 0.0) as exchange:
        for _ in range(2):
            with pytest.raises(ClusterError) as caught:
                await exchange.answer(ASK)
            message = f"the login for the HTTP proxy http://127.0.0.1:2 cannot be read from {path}: {why}"
            assert caught.value.message == message


async def test_a_proxy_that_refuses_or_is_away_is_named(tmp_path: Path) -> None:
    port, away = free_port(), f"http://127.0.0.1:{free_port()}"
    server = f"https://127.0.0.1:{port}"
    async with open_tinyproxy(tmp_path) as (url, _):
        expected = {
            url: f"{server}: the HTTP proxy {url} answered 500 to CONNECT",
            away: f"{server}: the HTTP proxy {away} refuses connections",
        }
        for proxy, message in expected.items():
            access = Access((server,), make_anchor().pem, proxy=HttpProxy(proxy))
            async with open_exchange(access, lambda: "t", lambda: 0.0) as exchange:
                with pytest.raises(ClusterError) as caught:
                    await exchange.answer(ASK)
                assert (caught.value.cause_kind, caught.value.message) == ("proxy", message)


async def test_the_servers_own_name_is_checked_through_it_and_directly(tmp_path: Path) -> None:
    anchor = make_anchor()
    leaf = make_leaf(anchor, [x509.DNSName("api.example.org")])
    async with open_https(answer_object, anchor=anchor, leaf=leaf) as served, open_tinyproxy(tmp_path) as (url, _):
        for proxy in (None, HttpProxy(url)):
            access = Access((served.url,), served.ca, "api.example.org", proxy)
            async with open_exchange(access, lambda: "t", lambda: 0.0) as exchange:
                assert (await exchange.answer(ASK))["kind"] == "Member"
            other = Access((served.url,), served.ca, "other.example.org", proxy)
            async with open_exchange(other, lambda: "t", lambda: 0.0) as exchange:
                with pytest.raises(ClusterError) as caught:
                    await exchange.answer(ASK)
                assert caught.value.message.endswith("its certificate is not for other.example.org")


async def test_without_a_ca_those_of_the_machine_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_https(answer_object) as served:
        access = Access((served.url,), "")
        async with open_exchange(access, lambda: "t", lambda: 0.0) as exchange:
            with pytest.raises(ClusterError) as caught:
                await exchange.answer(ASK)
        text = f"{served.url}: its certificate is not signed by a CA that this machine trusts"
        assert (caught.value.cause_kind, caught.value.message) == ("tls-ca", text)
        (tmp_path / "trusted.pem").write_text(served.ca)
        monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(tmp_path / "trusted.pem"))  # of OpenSSL
        async with open_exchange(access, lambda: "t", lambda: 0.0) as exchange:
            assert (await exchange.answer(ASK))["kind"] == "Member"
