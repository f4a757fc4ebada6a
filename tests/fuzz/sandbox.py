"""The parsers of the sandbox: of its API server and of its stand-in proxy."""

import itertools
import struct

import h11
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.kit.formats.x509 import der_of
from exclave.workload_api.connection import X509Svid, encode_response, frame_message
from exclave_sandbox.apiserver.access import API_AUDIENCE, Account, TokenKey, TokenRequest, parse_token_request
from exclave_sandbox.apiserver.api import Api, parse_path
from exclave_sandbox.apiserver.lists import page_of, parse_selector, read_cursor
from exclave_sandbox.apiserver.messages import HttpRequest, Refusal, Reply
from exclave_sandbox.http1 import HttpClient, json_answer, serve_requests
from exclave_sandbox.standin.controllers import read_endpoint
from exclave_sandbox.standin.identity import read_svids, split_certificates, split_messages
from exclave_sandbox.standin.settings import read_environment
from exclave_sandbox.standin.wire import (
    HEADER_START,
    decode_header,
    encode_header,
    header_length,
    is_http1,
    may_be_http1,
    read_server_name,
    read_varint,
)
from fuzz.agent import LEAF, as_json, of_object, of_text
from fuzz.target import Target
from support.store import START, make_store, member

ANSWERED = {200, 201, 400, 404, 405, 409, 413, 415, 422}
MEMBERS = "/apis/exclave.dev/v1alpha1/namespaces/g/members"
TOKENS = TokenKey(ec.generate_private_key(ec.SECP256R1()))


def ask_api(content: bytes) -> None:
    """Create, replace, change and delete a Member with this body."""
    ids = itertools.count()
    api = Api(make_store(), TOKENS, "admin", lambda: START, lambda: f"jti-{next(ids)}")
    for method, path, kind in (
        ("POST", MEMBERS, "json"),
        ("PUT", f"{MEMBERS}/web-abcde-1", "json"),
        ("PATCH", f"{MEMBERS}/web-abcde-1", "merge-patch+json"),
        ("DELETE", f"{MEMBERS}/web-abcde-1", "json"),
    ):
        headers = {"authorization": "Bearer admin", "content-type": f"application/{kind}"}
        reply = api.respond(HttpRequest(method, path, {}, headers, content))
        assert isinstance(reply, Reply)
        assert reply.status in ANSWERED, (method, reply)


REQUEST = b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def serve(content: bytes) -> None:
    """A connection that receives these bytes."""

    async def talk() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(content)
        await theirs.send_eof()
        await serve_requests(ours, lambda _: json_answer(200, {}))

    trio.run(talk)


def get(content: bytes) -> None:
    """A GET with this answer."""

    async def talk() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(content)
        await theirs.send_eof()
        await HttpClient(ours).get("a", "/", is_last=True)

    trio.run(talk)


def read_header(content: bytes) -> int:
    length = header_length(content[:HEADER_START])
    return decode_header(content[HEADER_START : HEADER_START + length])


def read_start(content: bytes) -> str | None:
    is_http1(content)
    may_be_http1(content)
    return read_server_name(content)


def hello(name: bytes) -> bytes:
    """A TLS ClientHello with a server name, and nothing else."""
    named = struct.pack(">HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    body = bytes(2 + 32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack(">H", len(named)) + named
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack(">H", len(message)) + message


ENVIRONMENT = as_json(
    {
        "LINKERD2_PROXY_IDENTITY_SPIRE_WORKLOAD_API_ADDRESS": "unix:///run/exclave/workload.sock",
        "LINKERD2_PROXY_IDENTITY_SERVER_ID": "spiffe://cluster.local/ns/shop/sa/web",
        "LINKERD2_PROXY_IDENTITY_SERVER_NAME": "web.shop.svc.cluster.local",
        "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS": "PEM",
        "LINKERD2_PROXY_DESTINATION_SVC_ADDR": "linkerd-dst-headless:8086",
        "LINKERD2_PROXY_POLICY_SVC_ADDR": "linkerd-policy:8090",
        "LINKERD2_PROXY_POLICY_CLUSTER_NETWORKS": "10.0.0.0/8",
        "LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": "25,3306-3307",
        "LINKERD2_PROXY_INBOUND_IPS": "10.0.0.1",
        "LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD": "5s",
    }
)
BEARER = TOKENS.mint(Account("g", "a", "uid-1"), TokenRequest((API_AUDIENCE,), 600), START, "jti")
PAGED = [{"metadata": {"name": name, "namespace": "g"}} for name in "ab"]
CURSOR = page_of(PAGED, 1, "", 1, counted=False)["metadata"]["continue"]
ENDPOINT = {"address": "10.0.0.1", "port": 80, "identity": "i", "serverName": "s", "opaque": False}
LEAF_DER = der_of(LEAF.certificate)
SVIDS = encode_response((X509Svid("spiffe://a", LEAF_DER, b"key", LEAF_DER),))

SANDBOX_TARGETS = (
    Target("bodies for the API server", ask_api, [as_json(member())]),
    Target("paths of the API server", of_text(parse_path), [f"{MEMBERS}/a/status".encode()], (Refusal,), (parse_path,)),
    Target(
        "label selectors",
        of_text(lambda text: parse_selector(text, "")),
        [b"app in (web, db),tier!=x,!old", b"app=web"],
        (Refusal,),
        (parse_selector,),
    ),
    Target(
        "field selectors",
        of_text(lambda text: parse_selector("", text)),
        [b"metadata.name=a", b"metadata.name==a"],
        (Refusal,),
    ),
    Target(
        "continue tokens",
        of_text(read_cursor),
        [b"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJnL2FcdTAwMDAifQ"],
        (Refusal,),
        (read_cursor,),
    ),
    Target(
        "TokenRequests",
        of_object(parse_token_request),
        [as_json({"spec": {"audiences": ["a"], "expirationSeconds": 600}})],
        (Refusal,),
        (parse_token_request,),
    ),
    Target("bearer tokens", of_text(lambda token: TOKENS.account_of(token, START)), [BEARER.encode()], (Refusal,)),
    Target("requests in HTTP/1.1", serve, [REQUEST, REQUEST * 2]),
    Target("answers in HTTP/1.1", get, [ANSWER], (h11.ProtocolError,)),
    Target(
        "transport headers",
        read_header,
        [encode_header(8080)],
        (ValueError,),
        (decode_header, header_length, read_varint),
    ),
    Target(
        "first bytes of connections",
        read_start,
        [hello(b"web.shop")],
        (EOFError,),
        (read_server_name,),
    ),
    Target(
        "messages of gRPC, in the stand-in",
        lambda content: list(split_messages(content)),
        [frame_message(b"abc") * 2],
        (),
        (split_messages,),
    ),
    Target("certificates of the Workload API, in the stand-in", read_svids, [SVIDS], (ValueError,), (read_svids,)),
    Target(
        "certificates in DER",
        lambda der: list(split_certificates(der)),
        [LEAF_DER * 2],
        (ValueError,),
        (split_certificates,),
    ),
    Target(
        "endpoints of the destination controller",
        of_object(read_endpoint),
        [as_json(ENDPOINT)],
        (ValueError,),
        (read_endpoint,),
    ),
    Target(
        "the stand-in's environment",
        of_object(lambda tree: read_environment({key: str(value) for key, value in tree.items()})),
        [ENVIRONMENT],
        (ValueError,),
        (read_environment,),
    ),
)
