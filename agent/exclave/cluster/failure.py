"""Reasons why no server was reached, for a person. Texts that may quote a header with the token are left out. Pure."""

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from exclave.errors import ClusterError, Fault

CONNECT = 5.0  # seconds for TCP and TLS to be set up
WHOLE = 30.0  # seconds for one request to one server, with everything

CauseKind = Literal["refused", "timeout", "name", "tls-ca", "tls-other", "proxy", "other"]  # `ClusterError.cause_kind`

# The most informative first: of several servers, a certificate of another CA matters more than a missing answer.
_RANKED: tuple[CauseKind, ...] = ("tls-ca", "tls-other", "proxy", "refused", "timeout", "name", "other")

# Verification errors of OpenSSL (include/openssl/x509_vfy.h) that mean: signed by another CA.
_FOREIGN_CA = {2, 7, 18, 19, 20, 21, 24, 30, 31}
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64

_UNREACHABLE_HINT = "check that the API server runs and that this machine has a route and a free way to it"
_NO_WAY_HINT = (
    f"{_UNREACHABLE_HINT}; if it reaches other networks only through an HTTP proxy, name that: cluster.proxy in "
    "/etc/exclave/config.toml"
)
_NAME_HINT = (
    "check this machine's DNS settings; if only an HTTP proxy resolves that name, name the proxy: cluster.proxy in "
    "/etc/exclave/config.toml"
)
PROXY_HINT = (
    "write USER:PASSWORD into a file that only root can read (mode 0600), and name the file: "
    "cluster.proxy_credentials in /etc/exclave/config.toml"
)


@dataclass(frozen=True)
class Failure:
    """One server that was not reached: the kind, a sentence that names the server, and what to do."""

    kind: CauseKind
    text: str
    hint: str


def explain(problem: BaseException, server: str, host: str, proxy: str = "", *, has_own_ca: bool = True) -> Failure:
    """Translate an exception of a request to `server`; `host` is the name that its certificate must have.

    `proxy`: URL of the HTTP proxy, "" without one. `has_own_ca`: the join token has the CA.
    """
    chain = list(_chain(problem))
    if proxy:
        if (failure := _proxy_failure(chain, server, proxy)) is not None:
            return failure
        server = f"{server} (through {proxy})"
    # httpx's failures often have no text. Types are recognised by their names, so this module imports no client.
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return _bad_certificate(link, server, host, has_own_ca=has_own_ca)
    for link in chain:
        names = {base.__name__ for base in type(link).__mro__}
        if "ConnectionRefusedError" in names:
            return Failure("refused", f"{server} refuses connections: no API server listens there", _UNREACHABLE_HINT)
        if "gaierror" in names:
            return Failure("name", f"{server}: the name {host} was not resolved", _NAME_HINT)
        if "ConnectTimeout" in names:
            return no_connection(server)
        if names & {"TimeoutException", "TooSlowError"}:
            return no_answer(server)
        if "TimeoutError" in names:
            return Failure("timeout", f"{server}: the connection timed out", _NO_WAY_HINT)
    for link in chain:
        if isinstance(link, ssl.SSLError):
            text = f"{server}: TLS was expected, the handshake failed: {link.reason or 'no reason given'}"
            return Failure("tls-other", text, "check that the URL is the API server's and that no proxy is in between")
    return Failure("other", f"{server}: the connection failed: {_safe_words(chain)}", _NO_WAY_HINT)


def no_connection(server: str) -> Failure:
    """The failure of a connection that was not made in time."""
    return Failure("timeout", f"{server}: no connection within {CONNECT:.0f} s", _NO_WAY_HINT)


def no_answer(server: str) -> Failure:
    """The failure of a request that was not answered in time."""
    return Failure("timeout", f"{server}: no answer within {WHOLE:.0f} s", _UNREACHABLE_HINT)


def not_kubernetes(server: str, status: int, content_type: str) -> Failure:
    """The failure of an answer that is no Kubernetes object, such as a login page."""
    met = content_type.partition(";")[0] or "no content type"
    text = f"{server} answered {status} with {met}: a Kubernetes object was expected"
    return Failure("other", text, "check that the URL is the API server's and that no proxy is in between")


def not_an_answer(server: str, status: int) -> Failure:
    """The failure of a refusal that an API server does not give to this request."""
    text = f"{server} answered {status} without a Status for what was requested"
    hint = (
        "something else answers in the API server's place, as a load balancer does, or the server does not serve this "
        "kind: see whether exclave is installed in that cluster: kubectl exclave check"
    )
    return Failure("other", text, hint)


def unreachable(failures: Sequence[Failure]) -> ClusterError:
    """One error for the failures of all servers; the most informative one sets kind and hint."""
    first = min(failures, key=lambda failure: _RANKED.index(failure.kind))
    error = ClusterError(Fault.UNREACHABLE, "; ".join(failure.text for failure in failures), first.hint)
    error.cause_kind = first.kind
    return error


def _proxy_failure(chain: Sequence[BaseException], server: str, proxy: str) -> Failure | None:
    """A failure to reach the proxy, or one that it reports; None if the failure is another one."""
    for link in chain:
        names = {base.__name__ for base in type(link).__mro__}
        if "ProxyError" in names:
            status = str(link).partition(" ")[0]  # the rest is the proxy's own text
            if status in ("401", "407"):  # tinyproxy answers 401 to a wrong password
                return Failure("proxy", f"{server}: the HTTP proxy {proxy} demands another login", PROXY_HINT)
            answer = status if status.isdecimal() else "no HTTP status"
            text = f"{server}: the HTTP proxy {proxy} answered {answer} to CONNECT"
            return Failure("proxy", text, "check that the proxy may connect to that server, and that the server runs")
        if "ConnectionRefusedError" in names:
            text = f"{server}: the HTTP proxy {proxy} refuses connections"
            return Failure("proxy", text, "check that the proxy runs, and its name: cluster.proxy, or https_proxy")
        if "gaierror" in names:
            text = f"{server}: the name of the HTTP proxy {proxy} was not resolved"
            return Failure(
                "proxy", text, "check this machine's DNS settings, and the name: cluster.proxy, or https_proxy"
            )
    return None


def _bad_certificate(problem: ssl.SSLCertVerificationError, server: str, host: str, *, has_own_ca: bool) -> Failure:
    code = problem.verify_code
    if code in _FOREIGN_CA and not has_own_ca:
        return Failure(
            "tls-ca",
            f"{server}: its certificate is not signed by a CA that this machine trusts",
            "install that CA here (Debian: ca-certificates), or make a join token that has it: --ca-file",
        )
    if code in _FOREIGN_CA:
        return Failure(
            "tls-ca",
            f"{server}: its certificate is not signed by the CA in the join token",
            "make a new join token; if the cluster's CA did not change, somebody else answers at that address",
        )
    what, hint = f"does not verify: {problem.verify_message}", "replace the API server's certificate"
    if code == _EXPIRED:
        what = "has expired, by this machine's clock"
        hint = "renew the API server's certificate, or set this machine's clock"
    elif code == _NOT_YET_VALID:
        what, hint = "is not valid yet, by this machine's clock", "set this machine's clock"
    elif code in (_WRONG_HOST, _WRONG_ADDRESS):
        what, hint = f"is not for {host}", "use one of the names or addresses in the API server's certificate"
    return Failure("tls-other", f"{server}: its certificate {what}", hint)


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """The problem, then its causes, its contexts (also suppressed ones) and the members of groups."""
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
    """The text of the deepest OSError, else of the first exception; none if it may quote a header."""
    for link in reversed(chain):
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
    first = chain[0]
    if any(type(link).__name__ == "LocalProtocolError" for link in chain):
        return f"the request could not be written ({type(first).__name__})"
    return str(first) or type(first).__name__
