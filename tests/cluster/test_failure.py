"""Why no server was reached, from the exceptions that httpx really raises and from chains like theirs."""

import socket
import ssl

import httpx
import pytest
import trio

from exclave.cluster.failure import Failure, explain, no_answer, no_connection, not_kubernetes, unreachable
from exclave.errors import Fault

SERVER = "https://api.example.org:6443"


def _explained(problem: BaseException) -> Failure:
    return explain(problem, SERVER, "api.example.org")


def _caused(problem: BaseException, *causes: BaseException) -> BaseException:
    """`problem` as httpx raises it: without text, the reason some links away, half of them hidden contexts."""
    link = problem
    for position, cause in enumerate(causes):
        if position % 2:
            link.__cause__ = cause
        else:
            link.__context__ = cause
            link.__suppress_context__ = True
        link = cause
    return problem


def _verification(code: int, message: str = "no") -> ssl.SSLCertVerificationError:
    problem = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    problem.verify_code = code
    problem.verify_message = message
    return problem


class _Group(Exception):
    """Stands for the exception groups of Python 3.11 and of the backport, which have this attribute in common."""

    def __init__(self, *exceptions: Exception) -> None:
        super().__init__("several")
        self.exceptions = exceptions


@pytest.mark.parametrize(
    ("problem", "kind", "text"),
    [
        pytest.param(
            _caused(httpx.ConnectError(""), OSError("all attempts failed"), ConnectionRefusedError(111, "refused")),
            "refused",
            f"{SERVER} refuses connections: no API server listens there",
            id="connection refused",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), OSError("all"), _Group(ConnectionRefusedError(111, "refused"))),
            "refused",
            f"{SERVER} refuses connections: no API server listens there",
            id="connection refused at every address of a name",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), socket.gaierror(-2, "Name or service not known")),
            "name",
            f"{SERVER}: the name api.example.org was not resolved",
            id="name not resolved",
        ),
        pytest.param(
            _caused(httpx.ConnectTimeout(""), trio.TooSlowError()),
            "timeout",
            f"{SERVER}: no connection within 5 s",
            id="no connection in time",
        ),
        pytest.param(
            _caused(httpx.ReadTimeout(""), trio.TooSlowError()),
            "timeout",
            f"{SERVER}: no answer within 30 s",
            id="no answer in time",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), TimeoutError(110, "Connection timed out")),
            "timeout",
            f"{SERVER}: the connection timed out",
            id="the kernel gave up",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), trio.BrokenResourceError(), _verification(19)),
            "tls-ca",
            f"{SERVER}: its certificate is not signed by the CA in the join token",
            id="another CA's certificate",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), trio.BrokenResourceError(), _verification(7)),
            "tls-ca",
            f"{SERVER}: its certificate is not signed by the CA in the join token",
            id="a CA of the same name with another key",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), _verification(10)),
            "tls-other",
            f"{SERVER}: its certificate has expired, by this machine's clock",
            id="expired certificate",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), _verification(9)),
            "tls-other",
            f"{SERVER}: its certificate is not valid yet, by this machine's clock",
            id="certificate from the future",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), _verification(62)),
            "tls-other",
            f"{SERVER}: its certificate is not for api.example.org",
            id="another host's certificate",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), _verification(26, "unsuitable certificate purpose")),
            "tls-other",
            f"{SERVER}: its certificate does not verify: unsuitable certificate purpose",
            id="any other verification error",
        ),
        pytest.param(
            _caused(httpx.ConnectError(""), OSError(113, "No route to host")),
            "other",
            f"{SERVER}: the connection failed: No route to host",
            id="no route",
        ),
        pytest.param(
            httpx.RemoteProtocolError("Server disconnected without sending a response."),
            "other",
            f"{SERVER}: the connection failed: Server disconnected without sending a response.",
            id="a connection that broke",
        ),
        pytest.param(httpx.ReadError(""), "other", f"{SERVER}: the connection failed: ReadError", id="without a text"),
        pytest.param(
            httpx.LocalProtocolError("Illegal header value b'Bearer s3cret'"),
            "other",
            f"{SERVER}: the connection failed: the request could not be written (LocalProtocolError)",
            id="an error that quotes the token",
        ),
    ],
)
def test_explained(problem: BaseException, kind: str, text: str) -> None:
    failure = _explained(problem)
    assert (failure.kind, failure.text) == (kind, text)
    assert failure.hint


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = httpx.ConnectError("first"), OSError("second")
    first.__cause__, second.__context__ = second, first
    assert _explained(first).kind == "other"


def test_the_hint_for_a_foreign_ca_names_the_possible_cause() -> None:
    assert _explained(_verification(20)).hint == (
        "make a new join token; if the cluster's CA did not change, somebody else answers at that address"
    )


def test_an_answer_from_no_api_server() -> None:
    failure = not_kubernetes(SERVER, 200, "text/html; charset=utf-8")
    assert failure.text == f"{SERVER} answered 200 with text/html: a Kubernetes object was expected"
    assert not_kubernetes(SERVER, 200, "").text == (
        f"{SERVER} answered 200 with no content type: a Kubernetes object was expected"
    )


def test_several_servers_make_one_error_with_the_kind_of_the_most_informative_failure() -> None:
    foreign = _explained(_verification(19))
    error = unreachable([no_answer("https://a"), foreign, no_connection("https://b")])
    assert error.fault is Fault.UNREACHABLE
    assert error.cause_kind == "tls-ca"
    assert error.hint == foreign.hint
    assert error.message == f"https://a: no answer within 30 s; {foreign.text}; https://b: no connection within 5 s"
