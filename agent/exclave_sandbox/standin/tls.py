"""Mutual TLS of the stand-in proxy: both sides present a certificate of the mesh, and verify the other's.

A server must have the identity of its lookup, a URI or a DNS name, among its SANs; SNI does not matter for that. A
client's identity is its **first** SAN. One without a certificate is accepted, without an identity.
"""

import os
import ssl
from dataclasses import dataclass, field

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.kit.formats.x509 import not_after
from exclave_sandbox.standin.stream import PeekedStream
from exclave_sandbox.standin.wire import TLS_HANDSHAKE, TRANSPORT_PROTOCOL, read_server_name

HANDSHAKE = 5.0  # seconds for a handshake


@dataclass(frozen=True)
class ProxyCertificate:
    """Certificates as DER, leaf first, and the key as PKCS#8 DER."""

    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)

    @property
    def expires(self) -> float:
        """The end of the leaf, epoch seconds."""
        return not_after(x509.load_der_x509_certificate(self.chain[0]))


LONGEST_HELLO = 16384


class WrongServer(Exception):
    """A server with another identity than expected."""


class Tls:
    """The newest certificate, ready for use. `refreshes` counts how many were loaded."""

    def __init__(self, anchors: str) -> None:
        self._anchors = anchors
        self._server: ssl.SSLContext | None = None
        self._client: dict[bool, ssl.SSLContext] = {}
        self.expires: float | None = None
        self.refreshes = 0

    def load(self, pair: ProxyCertificate) -> None:
        """Use this certificate from now on. Raises ValueError or ssl.SSLError; then the old one stays in use."""
        server = self._context(ssl.PROTOCOL_TLS_SERVER, pair)
        server.verify_mode = ssl.CERT_OPTIONAL
        server.num_tickets = 0
        server.set_alpn_protocols([TRANSPORT_PROTOCOL])
        client = {opaque: self._context(ssl.PROTOCOL_TLS_CLIENT, pair) for opaque in (False, True)}
        client[True].set_alpn_protocols([TRANSPORT_PROTOCOL])
        self._server, self._client, self.expires = server, client, pair.expires
        self.refreshes += 1

    async def accept(self, stream: trio.abc.Stream) -> tuple[PeekedStream, str | None, bool]:
        """Be the server: the stream, the client's identity, and whether a transport header follows."""
        assert self._server is not None
        secured = trio.SSLStream(stream, self._server, server_side=True, https_compatible=True)
        with trio.fail_after(HANDSHAKE):
            await secured.do_handshake()
        client_id = first_name(secured.getpeercert(binary_form=True))
        return PeekedStream(secured), client_id, secured.selected_alpn_protocol() == TRANSPORT_PROTOCOL

    async def accept_for(self, stream: PeekedStream, name: str) -> tuple[PeekedStream, str | None, bool]:
        """Terminate TLS for `name`. Anything else passes as bytes, without a client identity."""
        if (await stream.peek(1))[:1] != bytes([TLS_HANDSHAKE]):
            return stream, None, False
        size = 5
        while True:
            hello = await stream.peek(size)
            try:
                asked = read_server_name(hello)
                break
            except EOFError:
                if len(hello) < size or size >= LONGEST_HELLO:
                    return stream, None, False
                size = len(hello) + 1
        if asked != name:
            return stream, None, False
        if self._server is None:
            raise trio.BrokenResourceError("there is no certificate yet")
        return await self.accept(stream)

    async def connect(
        self, stream: trio.abc.Stream, server_name: str, identity: str, *, transport_header: bool
    ) -> trio.abc.Stream:
        """Be the client of a server that must have `identity`. Raises WrongServer, or what a broken stream raises."""
        context = self._client[transport_header]
        secured = trio.SSLStream(stream, context, server_hostname=server_name, https_compatible=True)
        with trio.fail_after(HANDSHAKE):
            await secured.do_handshake()
        if not is_named(secured.getpeercert(binary_form=True), identity):
            await trio.aclose_forcefully(secured)
            raise WrongServer(f"{identity} was expected")
        return secured

    def _context(self, protocol: int, pair: ProxyCertificate) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.check_hostname = False  # identities are URIs, too: `connect` checks them
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self._anchors)
        # Python reads keys from files only: this one is in memory.
        with os.fdopen(os.memfd_create("identity"), "wb") as file:
            file.write(_as_pem(pair))
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context


def first_name(certificate: bytes | None) -> str | None:
    """The first SAN of a certificate (DER): linkerd2-proxy's name of a client."""
    names = _names(certificate)
    return str(names[0].value) if names else None


def is_named(certificate: bytes | None, identity: str) -> bool:
    """True if a certificate (DER) has this identity: a URI SAN if it has a scheme, else a DNS SAN."""
    kind = x509.UniformResourceIdentifier if "://" in identity else x509.DNSName
    return any(isinstance(name, kind) and name.value == identity for name in _names(certificate))


def _names(certificate: bytes | None) -> list[x509.GeneralName]:
    if certificate is None:
        return []
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        return list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (ValueError, x509.ExtensionNotFound):
        return []


def _as_pem(pair: ProxyCertificate) -> bytes:
    key = serialization.load_der_private_key(pair.key, password=None)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    leaf_first = [x509.load_der_x509_certificate(der) for der in pair.chain]
    return b"".join([*(each.public_bytes(serialization.Encoding.PEM) for each in leaf_first), pem])
