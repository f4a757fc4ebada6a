"""Requests over real TLS against a small server, in every way they can go wrong."""

import logging
import os
import socket
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from email.utils import formatdate
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
from cryptography import x509

from exclave.api.requests import MEMBERS, Request, create, get, list_all
from exclave.cluster.endpoint import Access
from exclave.cluster.http import AT_ONCE, Exchange, open_exchange
from exclave.errors import ApiRefusal, ClusterError, Fault
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.pki import make_anchor, make_issuer, make_leaf
from support.https_server import Asked, Reply, Served, open_https
from support.needs import free_port

ASK = get(MEMBERS, "shop", "web-1")
WATCH = Request("GET", "/watch", "watch", "members", {"watch": "1", "fieldSelector": "metadata.name=web-1"})
LOCAL = [x509.IPAddress(ip_address("127.0.0.1"))]


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time beside real sockets: it jumps only when those have been quiet for a moment."""
    return trio.testing.MockClock(autojump_threshold=0.05)


async def answer_object(asked: Asked, reply: Reply) -> None:
    await reply.send(200, {"kind": "Member", "path": asked.target})


async def stall(asked: Asked, reply: Reply) -> None:
    await trio.sleep_forever()


def exchange_with(served: Served, token: str = "s3cret") -> AbstractAsyncContextManager[Exchange]:
    return open_exchange(Access((served.url,), served.ca), lambda: token, lambda: 1_700_000_000.0)


async def test_a_request_has_token_and_body_and_returns_an_object() -> None:
    async with open_https(answer_object) as served, exchange_with(served) as exchange:
        assert await exchange.answer(create(MEMBERS, "shop", {"metadata": {"name": "ü"}}))
        assert exchange.reachable.value
        assert exchange.counts == {("create", "200"): 1}
    (asked,) = served.asked
    assert (asked.method, asked.target) == ("POST", "/apis/exclave.dev/v1alpha1/namespaces/shop/members")
    assert asked.headers["authorization"] == "Bearer s3cret"
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["user-agent"].startswith("exclave/")
    assert asked.body == {"metadata": {"name": "ü"}}


async def test_one_connection_serves_many_requests() -> None:
    async with open_https(answer_object) as served, exchange_with(served) as exchange:
        for _ in range(5):
            await exchange.answer(ASK)
    assert served.connections == 1


async def test_the_query_is_written_into_the_url() -> None:
    async with open_https(answer_object) as served, exchange_with(served) as exchange:
        await exchange.answer(list_all(MEMBERS, None, labelSelector="a in (b,c)", limit="5"))
    assert served.asked[0].target == "/apis/exclave.dev/v1alpha1/members?labelSelector=a+in+%28b%2Cc%29&limit=5"


async def test_proxy_and_roots_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    async with open_https(answer_object) as served, exchange_with(served) as exchange:
        assert await exchange.answer(ASK)


async def test_a_server_on_an_ipv6_address_is_reached() -> None:
    async with open_https(answer_object, address="::1") as served, exchange_with(served) as exchange:
        assert await exchange.answer(ASK)


async def test_an_intermediate_in_the_token_is_trusted_as_it_stands() -> None:
    issuer = make_issuer(make_anchor("root"), "intermediate")
    async with open_https(answer_object, anchor=issuer, leaf=make_leaf(issuer, LOCAL)) as served:
        async with exchange_with(served) as exchange:
            assert await exchange.answer(ASK)


async def test_a_refusal_names_the_one_who_asked() -> None:
    async def refuse(asked: Asked, reply: Reply) -> None:
        await reply.send(403, {"kind": "Status", "reason": "Forbidden", "message": "said so"})

    async with open_https(refuse) as served, exchange_with(served) as exchange:
        with pytest.raises(ApiRefusal) as caught:
            await exchange.answer(ASK)
        assert exchange.reachable.value
        assert exchange.counts == {("get", "403"): 1}
    assert caught.value.message == (
        f"{served.url} does not permit the bearer of an unnamed token to get members web-1 (403 Forbidden): said so"
    )


async def test_retry_after_is_read_from_the_answer() -> None:
    async def refuse(asked: Asked, reply: Reply) -> None:
        await reply.send(429, b"slow down", Retry_After="7")

    async with open_https(refuse) as served, exchange_with(served) as exchange:
        with pytest.raises(ApiRefusal) as caught:
            await exchange.answer(ASK)
    assert (caught.value.status, caught.value.retry_after) == (429, 7.0)


async def test_the_clock_skew_is_set_after_an_answer_and_changes_by_more_than_date_can_show() -> None:
    async def dated(asked: Asked, reply: Reply) -> None:
        await reply.send(200, {}, Date=formatdate(1_700_000_000 + next(ahead), usegmt=True))

    ahead = iter((400, 402, 399, 403, 5))
    async with open_https(dated) as served, exchange_with(served) as exchange:
        assert exchange.skew is None
        assert [(await exchange.answer(ASK), exchange.skew)[1] for _ in range(5)] == [400.0, 400.0, 400.0, 403.0, 5.0]


async def failure_of(access: Access) -> ClusterError:
    async with open_exchange(access, lambda: "s3cret", lambda: 0.0) as exchange:
        exchange.reachable.set(True)
        with pytest.raises(ClusterError) as caught:
            await exchange.answer(ASK)
        assert not isinstance(caught.value, ApiRefusal)
        assert not exchange.reachable.value
        with pytest.raises(ClusterError) as watching:
            async with exchange.open_stream(WATCH):
                pass
        assert watching.value.message == caught.value.message
        return caught.value


async def test_nobody_listens() -> None:
    url = f"https://127.0.0.1:{free_port()}"
    problem = await failure_of(Access((url,), make_anchor().pem))
    assert problem.cause_kind == "refused"
    assert problem.message == f"{url} refuses connections: no API server listens there"


async def test_a_certificate_of_another_ca() -> None:
    async with open_https(answer_object) as served:
        problem = await failure_of(Access((served.url,), make_anchor("another CA").pem))
    assert problem.cause_kind == "tls-ca"
    assert problem.message == f"{served.url}: its certificate is not signed by the CA in the join token"


async def test_a_certificate_of_a_ca_that_only_has_the_same_name() -> None:
    async with open_https(answer_object) as served:
        problem = await failure_of(Access((served.url,), make_anchor("test CA").pem))
    assert problem.cause_kind == "tls-ca"


async def test_an_expired_certificate() -> None:
    anchor = make_anchor()
    leaf = make_leaf(anchor, LOCAL, lifetime=timedelta(seconds=-1))
    async with open_https(answer_object, anchor=anchor, leaf=leaf) as served:
        problem = await failure_of(Access((served.url,), served.ca))
    assert problem.cause_kind == "tls-other"
    assert problem.message == f"{served.url}: its certificate has expired, by this machine's clock"


async def test_a_certificate_for_another_host() -> None:
    anchor = make_anchor()
    leaf = make_leaf(anchor, [x509.DNSName("api.example.org")])
    async with open_https(answer_object, anchor=anchor, leaf=leaf) as served:
        problem = await failure_of(Access((served.url,), served.ca))
    assert problem.cause_kind == "tls-other"
    assert problem.message == f"{served.url}: its certificate is not for 127.0.0.1"


async def test_a_port_that_speaks_no_tls() -> None:
    async def speak_plainly(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, speak_plainly, 0)
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        problem = await failure_of(Access((url,), make_anchor().pem))
        nursery.cancel_scope.cancel()
    assert problem.cause_kind == "tls-other"
    assert problem.message == f"{url}: TLS was expected, the handshake failed: WRONG_VERSION_NUMBER"


async def test_a_name_that_does_not_resolve() -> None:
    class NoNames(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *arguments: object) -> object:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *arguments: object) -> object:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(NoNames())
    problem = await failure_of(Access(("https://api.nowhere.example:6443",), make_anchor().pem))
    assert problem.cause_kind == "name"
    assert problem.message == "https://api.nowhere.example:6443: the name api.nowhere.example was not resolved"


async def test_a_server_that_accepts_and_never_answers(autojump_clock: trio.testing.MockClock) -> None:
    async def say_nothing(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, say_nothing, 0)
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        problem = await failure_of(Access((url,), make_anchor().pem))
        nursery.cancel_scope.cancel()
    assert problem.cause_kind == "timeout"
    assert problem.message == f"{url}: no connection within 5 s"


async def test_a_request_that_is_not_answered(autojump_clock: trio.testing.MockClock) -> None:
    async with open_https(stall) as served:
        problem = await failure_of(Access((served.url,), served.ca))
    assert problem.cause_kind == "timeout"
    assert problem.message == f"{served.url}: no answer within 30 s"


async def test_an_answer_that_never_ends_is_cut_and_the_next_request_succeeds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def drip(asked: Asked, reply: Reply) -> None:
        if len(served.asked) > 1:
            return await answer_object(asked, reply)
        await reply.start(200, Content_Length="1000000")
        while True:
            await reply.piece(b" ")
            await trio.sleep(1)

    async with open_https(drip) as served, exchange_with(served) as exchange:
        started = trio.current_time()
        with pytest.raises(ClusterError) as caught:
            await exchange.answer(ASK)
        assert 30 <= trio.current_time() - started < 31
        assert caught.value.cause_kind == "timeout"
        assert await exchange.answer(ASK)


async def test_when_the_own_address_is_lost_every_connection_is_dropped_and_made_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    all_asked = trio.Event()

    async def stall_at_first(asked: Asked, reply: Reply) -> None:
        if len(served.asked) == 3:
            all_asked.set()
        if asked.target.startswith("/watch"):
            await stream_one_line(asked, reply)
        elif len(served.asked) < 4:
            await stall(asked, reply)
        await answer_object(asked, reply)

    async with open_https(stall_at_first) as served, exchange_with(served) as exchange:
        ends: list[str] = []

        async def ask(number: int) -> None:
            with pytest.raises(ClusterError):
                await exchange.answer(ASK)
            ends.append(f"{number} after {trio.current_time() - began:.0f} s")

        async def follow() -> None:
            with pytest.raises(ClusterError, match=r"the connection failed|it ended"):
                async with exchange.open_stream(WATCH) as received:
                    async for _ in received:
                        pass
                raise ClusterError(Fault.UNREACHABLE, "it ended", "")
            ends.append("the stream")

        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(follow)
            for number in range(2):
                nursery.start_soon(ask, number)
            await all_asked.wait()
            began = trio.current_time()
            exchange.drop_connections()
            assert (await exchange.answer(ASK))["kind"] == "Member"
        assert sorted(ends) == ["0 after 1 s", "1 after 1 s", "the stream"]
        assert len(connections_to(served)) == 1, "the new one"


async def test_a_connection_that_breaks_before_the_answer() -> None:
    async def cut(asked: Asked, reply: Reply) -> None:
        await reply.cut()

    async with open_https(cut) as served:
        problem = await failure_of(Access((served.url,), served.ca))
    assert problem.cause_kind == "other"
    assert problem.message.startswith(f"{served.url}: the connection failed: ")


async def test_something_else_than_an_api_server_answers() -> None:
    async def login_page(asked: Asked, reply: Reply) -> None:
        await reply.send(200, b"<html>", **{"Content-Type": "text/html"})

    async with open_https(login_page) as served, exchange_with(served) as exchange:
        with pytest.raises(ClusterError) as caught:
            await exchange.answer(ASK)
        assert not exchange.reachable.value
    assert caught.value.message == f"{served.url} answered 200 with text/html: a Kubernetes object was expected"


async def test_a_token_that_cannot_be_a_header_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_https(answer_object) as served, exchange_with(served, token="s3cret\nX: y") as exchange:
        with pytest.raises(ClusterError) as caught:
            await exchange.answer(ASK)
    assert caught.value.message == "cannot get members web-1: a token of visible ASCII characters was expected"
    assert "s3cret" not in caplog.text


async def test_a_missing_token_file_is_an_error_and_leaves_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret")
    async with open_https(answer_object) as served:
        async with open_exchange(Access((served.url,), served.ca), path.read_text, lambda: 0.0) as exchange:
            await exchange.answer(ASK)
            path.unlink()
            with pytest.raises(ClusterError, match=r"cannot watch members: the token cannot be read: \[Errno 2\]"):
                await exchange.open_stream(WATCH).__aenter__()
            for content, why in ((None, f"[Errno 2] No such file or directory: '{path}'"), (b"\xff", "it is not text")):
                _ = content and path.write_bytes(content)
                with pytest.raises(ClusterError) as caught:
                    await exchange.answer(ASK)
                told = f"cannot get members web-1: the token cannot be read: {why}"
                assert (caught.value.fault, caught.value.message) == (Fault.UNREACHABLE, told), "it is tried again"
        assert not connections_to(served)


async def test_a_token_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_https(answer_object) as served, exchange_with(served) as exchange:
        await exchange.answer(ASK)
        async with exchange.open_stream(WATCH):
            pass
    assert "s3cret" not in caplog.text


async def test_a_ca_that_cannot_be_read() -> None:
    access = Access(("https://127.0.0.1",), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    with pytest.raises(ClusterError) as caught:
        async with open_exchange(access, str, lambda: 0.0):
            pass
    assert caught.value.message == (
        "the cluster's CA was expected to be certificates in PEM, and cannot be read as such"
    )


async def test_the_server_that_works_is_found_and_remembered() -> None:
    anchor = make_anchor()
    away = f"https://127.0.0.1:{free_port()}"
    leaf = make_leaf(anchor, LOCAL)
    async with open_https(answer_object, anchor=anchor, leaf=leaf) as served:
        async with open_exchange(Access((away, served.url), anchor.pem), lambda: "s3cret", lambda: 0.0) as exchange:
            assert exchange.server == away
            await exchange.answer(ASK)
            assert exchange.server == served.url
            await exchange.answer(ASK)
            assert exchange.counts == {("get", ""): 1, ("get", "200"): 2}


async def test_a_stream_finds_the_server_that_works_too() -> None:
    anchor = make_anchor()
    away = f"https://127.0.0.1:{free_port()}"
    leaf = make_leaf(anchor, LOCAL)
    async with open_https(stream_one_line, anchor=anchor, leaf=leaf) as served:
        async with open_exchange(Access((away, served.url), anchor.pem), lambda: "s3cret", lambda: 0.0) as exchange:
            async with exchange.open_stream(WATCH) as received:
                assert await received.__anext__() == b'{"n": 1}\n'
            assert exchange.server == served.url


async def test_when_no_server_works_each_is_named() -> None:
    urls = tuple(f"https://127.0.0.1:{free_port()}" for _ in range(2))
    problem = await failure_of(Access(urls, make_anchor().pem))
    assert problem.message == "; ".join(f"{url} refuses connections: no API server listens there" for url in urls)


async def stream_one_line(asked: Asked, reply: Reply) -> None:
    await reply.start(200, Transfer_Encoding="chunked")
    await reply.line({"n": 1})
    await trio.sleep_forever()


async def test_a_stream_brings_bytes_as_they_come_and_ends_with_the_server() -> None:
    async def two_lines(asked: Asked, reply: Reply) -> None:
        await reply.start(200, Transfer_Encoding="chunked")
        await reply.line(1)
        await reply.line(2)

    async with open_https(two_lines) as served, exchange_with(served) as exchange:
        async with exchange.open_stream(WATCH) as received:
            assert b"".join([chunk async for chunk in received]) == b"1\n2\n"
    assert served.asked[0].target == "/watch?watch=1&fieldSelector=metadata.name%3Dweb-1"
    assert served.asked[0].headers["accept-encoding"] == "identity"


async def test_a_stream_that_breaks_raises_an_error() -> None:
    async def one_line_and_cut(asked: Asked, reply: Reply) -> None:
        await reply.start(200, Transfer_Encoding="chunked")
        await reply.line(1)
        await reply.cut()

    async with open_https(one_line_and_cut) as served, exchange_with(served) as exchange:
        with pytest.raises(ClusterError) as caught:
            async with exchange.open_stream(WATCH) as received:
                async for _ in received:
                    pass
    assert caught.value.message.startswith(f"{served.url}: the connection failed: ")


async def test_a_refused_stream_raises_the_reason() -> None:
    async def gone(asked: Asked, reply: Reply) -> None:
        await reply.send(410, {"kind": "Status", "reason": "Expired", "message": "too old"})

    async with open_https(gone) as served, exchange_with(served) as exchange:
        with pytest.raises(ApiRefusal) as caught:
            async with exchange.open_stream(WATCH):
                pass
        assert exchange.counts == {("watch", "410"): 1}
    assert (caught.value.status, caught.value.reason) == (410, "Expired")


async def test_the_kernel_watches_over_a_silent_stream() -> None:
    async with open_https(stream_one_line) as served, exchange_with(served) as exchange:
        async with exchange.open_stream(WATCH):
            (connection,) = connections_to(served)
    assert connection == {socket.SO_KEEPALIVE: 1, socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPCNT: 3}


def connections_to(served: Served) -> list[dict[int, int]]:
    """This process's connections to a server, each with its keep-alive options, by their file descriptors."""
    found = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue
        with copy:
            try:
                if copy.getpeername()[1] != int(served.url.rsplit(":", 1)[1]):
                    continue
            except (OSError, IndexError):
                continue
            options = {
                name: copy.getsockopt(socket.IPPROTO_TCP, name) for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPCNT)
            }
            found.append({socket.SO_KEEPALIVE: copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)} | options)
    return found


async def test_many_cancelled_requests_and_streams_do_no_harm() -> None:
    slow = trio.Event()

    async def answer_late(asked: Asked, reply: Reply) -> None:
        await slow.wait()
        await answer_object(asked, reply)

    async with open_https(answer_late) as served, exchange_with(served) as exchange:
        for _ in range(8):  # 120 of each: a hundred ended Debian 12's httpcore. In rounds, for busy machines
            async with trio.open_nursery() as nursery:
                for work in (partial(exchange.answer, ASK), partial(_enter_stream, exchange)) * 15:
                    nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked(0.05)
                nursery.cancel_scope.cancel()
        slow.set()
        assert await exchange.answer(ASK) == {"kind": "Member", "path": ASK.path}
        async with exchange.open_stream(WATCH) as received:
            assert await received.__anext__()
        with trio.fail_after(10):  # a busy machine closes them late
            while len(connections_to(served)) > AT_ONCE:  # noqa: ASYNC110  sockets publish no event
                await trio.sleep(0.01)
    assert not connections_to(served)


class Fence:
    """One that holds until a time, and counts who looked."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        if (left := self.until - trio.current_time()) > 0:
            return left
        raise ClusterError(Fault.NOT_PERMITTED, "the fence is down", "")


WRITE = create(MEMBERS, "shop", {"metadata": {"name": "web-1"}})


async def test_what_waited_for_its_turn_behind_a_fence_is_not_sent_when_that_is_down(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def answer_late(asked: Asked, reply: Reply) -> None:
        await trio.sleep(20)
        await answer_object(asked, reply)

    async with open_https(answer_late) as served, exchange_with(served) as exchange, trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(exchange.answer, ASK)
        await trio.sleep(1)
        with pytest.raises(ClusterError, match="the fence is down"):
            await exchange.answer(WRITE, Fence(until=10.0))
        assert trio.current_time() >= 20
        assert "POST" not in [asked.method for asked in served.asked]
        assert exchange.counts["create", ""] == 0, "it was never under way"


async def test_a_fence_is_checked_again_before_the_first_byte(autojump_clock: trio.testing.MockClock) -> None:
    """As when the process is stopped in between, for however long."""

    class Stopped(Fence):
        def __call__(self) -> float:
            left = super().__call__()
            self.until = trio.current_time()
            return left

    async with open_https(answer_object) as served, exchange_with(served) as exchange:
        await exchange.answer(WRITE, Fence(until=10.0))
        fence = Stopped(until=10.0)
        with pytest.raises(ClusterError, match="the fence is down"):
            await exchange.answer(WRITE, fence)
        assert fence.looks == 2 and len(served.asked) == 1
        await exchange.answer(WRITE, Fence(until=10.0))
        assert len(served.asked) == 2, "the next one fares well"


async def test_no_answer_is_waited_for_longer_than_the_fence_holds(autojump_clock: trio.testing.MockClock) -> None:
    async with open_https(stall) as served, exchange_with(served) as exchange:
        began = trio.current_time()
        with pytest.raises(ClusterError):
            await exchange.answer(WRITE, Fence(until=began + 5.0))
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.5)


async def _enter_stream(exchange: Exchange) -> None:
    async with exchange.open_stream(WATCH):
        await trio.sleep_forever()


async def test_streams_cancelled_while_they_are_read_leave_no_socket_behind() -> None:
    async with open_https(stream_one_line) as served, exchange_with(served) as exchange:
        for _ in range(20):
            with trio.CancelScope() as scope:
                async with exchange.open_stream(WATCH) as received:
                    async for _ in received:
                        scope.cancel()
        assert not connections_to(served)


async def test_closing_waits_for_what_is_under_way(autojump_clock: trio.testing.MockClock) -> None:
    async def answer_in_a_second(asked: Asked, reply: Reply) -> None:
        await trio.sleep(1)
        await answer_object(asked, reply)
        done.append(asked.target)

    done: list[str] = []
    async with open_https(answer_in_a_second) as served:
        async with exchange_with(served) as exchange:
            with trio.move_on_after(0.5):
                await exchange.answer(ASK)
        assert done == [ASK.path]


async def test_closing_waits_no_longer_than_two_seconds(autojump_clock: trio.testing.MockClock) -> None:
    async with open_https(stall) as served:
        async with exchange_with(served) as exchange:
            with trio.move_on_after(0.5):
                await exchange.answer(ASK)
            started = trio.current_time()
        assert trio.current_time() - started == pytest.approx(2.0, abs=0.1)


async def test_a_request_in_a_shielded_clean_up_is_answered_though_all_is_cancelled() -> None:
    async with open_https(answer_object) as served:
        with trio.CancelScope() as outer:
            async with exchange_with(served) as exchange:
                outer.cancel()
                with shielded(60.0):
                    assert await exchange.answer(ASK)
    assert len(served.asked) == 1


async def test_what_the_body_raises_comes_out_as_itself() -> None:
    async with open_https(answer_object) as served:
        with pytest.raises(KeyError):
            async with exchange_with(served):
                raise KeyError("mine")
