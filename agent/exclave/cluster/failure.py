"""Why nobody was reached, in words for a person. Pure.

Rules: a failure of httpx often has no text; the reason is somewhere in its chain of causes and contexts, or in a group
of one failure per address. The chain is walked once, here, and nowhere else. What an exception says is repeated only
if it cannot hold a secret: the text of a protocol error may quote the header that carries the token.

Foreign types are known by name, so that this module computes and imports nothing that could do more.
"""

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from exclave.errors import ClusterError, Fault

CONNECT = 5.0
"""Seconds for TCP and TLS to be set up."""

WHOLE = 30.0
"""Seconds for one request to one server, all in all."""

CauseKind = Literal["refused", "timeout", "name", "tls-ca", "tls-other", "other"]
"""What kept us from a server, for callers that act on it; `ClusterError.cause_kind` carries it."""

# The most telling first: with several servers, one that answers with a foreign certificate matters more than silence.
_TELLING: tuple[CauseKind, ...] = ("tls-ca", "tls-other", "refused", "timeout", "name", "other")

# Verification errors of OpenSSL (include/openssl/x509_vfy.h) that mean: signed by somebody else.
_FOREIGN_CA = {2, 7, 18, 19, 20, 21, 24, 30, 31}
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64

_UNREACHABLE_HINT = "check that the API server runs and that this machine has a route and a free way to it"


@dataclass(frozen=True)
class Failure:
    """One server that was not reached: its kind, a sentence with the server in it, and what to do."""

    kind: CauseKind
    text: str
    hint: str


def explain(problem: BaseException, server: str, host: str) -> Failure:
    """Translate what httpx, or anything below it, raised while `server` was asked; `host` is the name in its URL."""
    chain = list(_chain(problem))
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return _bad_certificate(link, server, host)
    for link in chain:
        names = {base.__name__ for base in type(link).__mro__}
        if "ConnectionRefusedError" in names:
            return Failure("refused", f"{server} refuses connections: no API server listens there", _UNREACHABLE_HINT)
        if "gaierror" in names:
            return Failure("name", f"{server}: the name {host} was not resolved", "check this machine's DNS settings")
        if "ConnectTimeout" in names:
            return no_connection(server)
        if names & {"TimeoutException", "TooSlowError"}:
            return no_answer(server)
        if "TimeoutError" in names:
            return Failure("timeout", f"{server}: the connection timed out", _UNREACHABLE_HINT)
    for link in chain:
        if isinstance(link, ssl.SSLError):
            text = f"{server}: TLS was expected, the handshake failed: {link.reason or 'no reason given'}"
            return Failure("tls-other", text, "check that the URL is the API server's and that no proxy is in between")
    return Failure("other", f"{server}: the connection failed: {_safe_words(chain)}", _UNREACHABLE_HINT)


def no_connection(server: str) -> Failure:
    """The failure of a connection that was not made in time."""
    return Failure("timeout", f"{server}: no connection within {CONNECT:.0f} s", _UNREACHABLE_HINT)


def no_answer(server: str) -> Failure:
    """The failure of a request that was not answered in time."""
    return Failure("timeout", f"{server}: no answer within {WHOLE:.0f} s", _UNREACHABLE_HINT)


def not_kubernetes(server: str, status: int, content_type: str) -> Failure:
    """The failure of an answer that is no Kubernetes object: a login page, a load balancer's apology."""
    met = content_type.partition(";")[0] or "no content type"
    text = f"{server} answered {status} with {met}: a Kubernetes object was expected"
    return Failure("other", text, "check that the URL is the API server's and that no proxy is in between")


def unreachable(failures: Sequence[Failure]) -> ClusterError:
    """One error from the failures of all servers; the most telling gives its kind and hint."""
    first = min(failures, key=lambda failure: _TELLING.index(failure.kind))
    error = ClusterError(Fault.UNREACHABLE, "; ".join(failure.text for failure in failures), first.hint)
    error.cause_kind = first.kind
    return error


def _bad_certificate(problem: ssl.SSLCertVerificationError, server: str, host: str) -> Failure:
    code = problem.verify_code
    if code in _FOREIGN_CA:
        return Failure(
            "tls-ca",
            f"{server}: its certificate is not signed by the CA in the join token",
            "make a new join token; if the cluster's CA did not change, somebody else answers at that address",
        )
    if code == _EXPIRED:
        text = f"{server}: its certificate has expired, by this machine's clock"
        return Failure("tls-other", text, "renew the API server's certificate, or set this machine's clock")
    if code == _NOT_YET_VALID:
        text = f"{server}: its certificate is not valid yet, by this machine's clock"
        return Failure("tls-other", text, "set this machine's clock")
    if code in (_WRONG_HOST, _WRONG_ADDRESS):
        text = f"{server}: its certificate is not for {host}"
        return Failure("tls-other", text, "use one of the names or addresses in the API server's certificate")
    text = f"{server}: its certificate does not verify: {problem.verify_message}"
    return Failure("tls-other", text, "mend the API server's certificate")


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """The problem, then what lies below it: causes, contexts (also suppressed ones), members of groups."""
    visited: set[int] = set()
    todo = [problem]
    while todo:
        link = todo.pop(0)
        if id(link) in visited:
            continue
        visited.add(id(link))
        yield link
        below = (link.__cause__, link.__context__, *getattr(link, "exceptions", ()))
        todo += [deeper for deeper in below if deeper is not None]


def _safe_words(chain: Sequence[BaseException]) -> str:
    """What the deepest operating system error says, else the words of the first exception that may be repeated."""
    for link in reversed(chain):
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
    first = chain[0]
    if any(type(link).__name__ == "LocalProtocolError" for link in chain):
        return f"the request could not be written ({type(first).__name__})"
    return str(first) or type(first).__name__
