"""The parsers of agent, controller and admin, with valid inputs."""

import base64
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.message
import h2.config
import h2.connection
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.admin.group.checks import read_failure, read_label, read_port, read_probe
from exclave.admin.kubectl_errors import KubectlAction, kubectl_error
from exclave.api.csr import make_csr, read_csr
from exclave.api.delivery import delivery_key_text, read_delivery_key, seal, unseal
from exclave.api.identity import MeshIdentity
from exclave.api.issuer import read_anchors, read_issuer
from exclave.api.join_token import PREFIX, JoinToken, decode_token, encode_token
from exclave.api.jwt import read_claims_untrusted
from exclave.api.linkerd.config import read_linkerd
from exclave.api.malformed import MALFORMED
from exclave.api.member import read_conditions, view_member
from exclave.api.names import parse_member_name
from exclave.api.requests import MEMBERS
from exclave.api.settings import parse_group, parse_settings, render_group, render_settings
from exclave.api.workload.opaque_ports import read_opaque
from exclave.cluster.answers import AnswerReader
from exclave.cluster.credential import (
    Credential,
    granted_credential,
    parse_credential,
    read_token_times,
    render_credential,
    token_subject,
)
from exclave.cluster.http_proxy import split_login
from exclave.cluster.watch import Answered, Arrived, Deliver, Opened, WatchMachine
from exclave.config import parse_config
from exclave.controller.mesh.publish import read_control_plane
from exclave.controller.policy.claims import workload_addresses
from exclave.controller.policy.mark import read_key
from exclave.controller.policy.snapshot import workload_ports
from exclave.data_path.control_plane import sample_controllers
from exclave.dns.zone import control_plane_services, respond
from exclave.errors import ConfigError, TokenError
from exclave.explain.explain import parse_query
from exclave.explain.table import parse_rule_texts, parse_table
from exclave.firewall.iptables import parse_saved, parse_saved_rule
from exclave.firewall.ruleset import parse_foreign_tables
from exclave.firewall.ruleset import parse_table as parse_foreign_table
from exclave.host_check.mounts import parse_nfs_mounts
from exclave.identity.svid import SvidError, check_svid
from exclave.kit.formats.host_port import split_host_port
from exclave.kit.formats.json_text import parse_json, parse_json_cut
from exclave.kit.formats.nft_json import parse_items
from exclave.kit.formats.proxy_url import check_proxy_url
from exclave.kit.formats.ranges import parse_span
from exclave.kit.formats.times import epoch, parse_duration
from exclave.kit.formats.x509 import not_before, read_blocks, read_certificate_file, read_certificates
from exclave.kit.host.routes import parse_route
from exclave.kit.host.sockets import read_sockets
from exclave.kit.netlink.messages import (
    ERROR,
    read_attributes,
    read_body,
    read_messages,
    split_datagram,
    write_attribute,
    write_message,
)
from exclave.link.events import is_about_link
from exclave.member.facts import parse_os_release
from exclave.proxy.metrics import read_expiry, read_samples
from exclave.proxy.process.binary import read_version
from exclave.proxy.process.records import interpreter_of
from exclave.redirect.kernel.half_open import parse_half_open
from exclave.redirect.kernel.nft_events import TransactionReader, parse_events
from exclave.redirect.kernel.observe import parse_listing
from exclave.redirect.rules.source_rules import parse_rule
from exclave.swap.evidence import count_clients, count_policies, count_sockets
from exclave.workload_api.connection import (
    FETCH_X509_SVID,
    MessageReader,
    WorkloadConnection,
    X509Svid,
    encode_response,
    frame_message,
)
from exclave_sandbox.pki import make_anchor, make_issuer, make_leaf
from fuzz.target import Target
from support.mesh import make_settings
from support.store import external_workload, group, member

NOW = 1_800_000_000.0


def of_text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """For a parser of text. Its callers replace bytes that are no UTF-8 by other characters."""
    return lambda content: parse(content.decode("utf-8", "replace"))


def of_object(parse: Callable[[Any], object]) -> Callable[[bytes], object]:
    """For a parser of the API's objects: JSON objects only, since the client refuses everything else."""

    def read(content: bytes) -> object:
        try:
            tree = json.loads(content)
        except (ValueError, RecursionError):
            return None
        return parse(tree) if isinstance(tree, dict) else None

    return read


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


# The kernel and its tools.

SEEDS = Path(__file__).parent / "seeds"
TABLE_JSON, TABLE_TEXT = ((SEEDS / name).read_bytes() for name in ("table.json", "table.txt"))


def conntrack_entry(source: str, destination: str) -> bytes:
    """The body of a message of conntrack about a TCP connection."""
    ends = [write_attribute(kind, ip_address(text).packed) for kind, text in ((1, source), (2, destination))]
    parts = write_attribute(1, b"".join(ends), nested=True) + write_attribute(2, write_attribute(1, b"\6"), nested=True)
    return bytes(4) + write_attribute(1, parts, nested=True) + write_attribute(3, bytes([0, 0, 0, 8]))


CONNTRACK = conntrack_entry("10.77.0.20", "10.96.0.90")
CHANGE = write_message(10 << 8 | 6, 0, write_attribute(1, b"exclave\0"), write_attribute(2, b"chain\0"))
GENERATION = write_message(10 << 8 | 15, 0, write_attribute(2, bytes(4)), write_attribute(3, b"nft\0"))
VERDICT = write_attribute(5, write_attribute(1, b"\0\0\0\1"), nested=True)
TRACE = write_message(
    10 << 8 | 17,
    0,
    *(write_attribute(1, b"exclave\0"), write_attribute(2, b"outbound\0"), write_attribute(3, bytes(7) + b"\7")),
    *(write_attribute(4, b"\0\0\0\3"), VERDICT, write_attribute(6, b"\0\0\0\1")),
)
SOCKETS = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:9286 0100007F:90C1 06 00000000:00000000 03:00001339 00000000     0        0 0 3 00000000d72f4317
"""
OS_RELEASE = b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
SAVED_RULES = b"*filter\n-A INPUT ! -i lo -p tcp -m tcp --dport 1:9 -m comment --comment 'a b' -j DROP\nCOMMIT\n"
MOUNTS = b"141 29 0:50 / /home rw - nfs4 10.0.0.5:/home rw,port=2049,addr=10.0.0.5\n"
ROUTE = b'[{"type":"local","dst":"127.0.0.1","dev":"lo","prefsrc":"127.0.0.1","flags":[],"uid":0,"cache":["local"]}]'


ROUTING_RULE = bytes([2, 0, 32, 0, 100, 0, 0, 1, 0, 0, 0, 0]) + write_attribute(2, bytes([10, 1, 0, 5]))

LINK_MESSAGE = write_message(16, 0, bytes(12), write_attribute(3, b"exclave0\0")) + write_message(
    21, 0, bytes(4), write_attribute(1, bytes([169, 254, 77, 1]))
)


def read_netlink(content: bytes) -> None:
    for _, body in read_messages(content):
        for _, attribute in read_attributes(body[4:]):
            with suppress(ValueError):  # not every attribute holds others
                list(read_attributes(attribute))
        read_body(body)


KERNEL = (
    Target(
        "netlink messages",
        read_netlink,
        [CHANGE + GENERATION, write_message(ERROR, 0)],
        (ValueError,),
        (read_messages, split_datagram, read_attributes, read_body),
    ),
    Target("changes of nftables", lambda content: TransactionReader().receive(content), [CHANGE + GENERATION]),
    Target(
        "messages about links",
        lambda content: [is_about_link(message) for message in split_datagram(content)],
        [LINK_MESSAGE],
        (ValueError,),
        (split_datagram,),
    ),
    Target("a routing rule", parse_rule, [ROUTING_RULE], (ValueError,), (parse_rule,)),
    Target("trace events", parse_events, [TRACE], (ValueError,), (parse_events,)),
    Target(
        "connections of conntrack",
        lambda body: parse_half_open(0x100, body),
        [CONNTRACK],
        (ValueError,),
        (parse_half_open,),
    ),
    Target(
        "a table as nft lists it, as observed",
        of_text(parse_listing),
        [TABLE_JSON],
        (ValueError,),
        (parse_listing,),
    ),
    Target("what nft -j prints", of_text(parse_items), [TABLE_JSON], (ValueError,), (parse_items,)),
    Target("a table as nft lists it", of_text(parse_table), [TABLE_JSON], (ValueError,), (parse_table,)),
    Target("a table of others", parse_foreign_table, [TABLE_JSON], (ValueError,), (parse_foreign_table,)),
    Target("chains of others", parse_foreign_tables, [TABLE_JSON], (ValueError,), (parse_foreign_tables,)),
    Target("mounts", of_text(parse_nfs_mounts), [MOUNTS], (), (parse_nfs_mounts,)),
    Target("rules of iptables", of_text(parse_saved), [SAVED_RULES], (), (parse_saved, parse_saved_rule)),
    Target("a table as nft's text", of_text(parse_rule_texts), [TABLE_TEXT], (ValueError,), (parse_rule_texts,)),
    Target("a route", parse_route, [ROUTE], (ValueError,), (parse_route,)),
    Target(
        "the kernel's sockets",
        of_text(lambda text: count_sockets(text, frozenset({"127.0.0.1"}), frozenset({37510}))),
        [SOCKETS],
        (ValueError,),
        (read_sockets, count_sockets),
    ),
    Target("os-release", of_text(parse_os_release), [OS_RELEASE], (), (parse_os_release,)),
)


# The API server, and whoever may write objects.

ANCHOR = make_anchor()
ISSUER = make_issuer(ANCHOR)
IDENTITY = MeshIdentity("web", "shop", "linkerd", "cluster.local")
LEAF = make_leaf(ISSUER, [x509.DNSName(IDENTITY.dns_name), x509.UniformResourceIdentifier(IDENTITY.spiffe_id)])
CHAIN = (LEAF.pem + ISSUER.pem).encode()
KEY = ec.generate_private_key(ec.SECP256R1())

CLAIMS = {"iat": NOW, "exp": NOW + 3600, "sub": "system:serviceaccount:shop-vms:web.join.k7q2x-2", "aud": ["k"]}
TOKEN = ".".join(base64.urlsafe_b64encode(as_json(part)).decode().rstrip("=") for part in ({"alg": "x"}, CLAIMS, "s"))
JOIN = JoinToken(("https://10.0.0.1:6443",), ANCHOR.pem, "shop", "web", TOKEN, NOW)
JOIN_LINE = encode_token(JOIN)
JOIN_TREE = zlib.decompress(base64.urlsafe_b64decode(JOIN_LINE[len(PREFIX) :] + "==="))

SEALED = seal(TOKEN, delivery_key_text(KEY)).encode()
MEMBER = member(addresses=["10.0.0.1"], facts={"os": "debian"}, csr="PEM") | {
    "status": {
        "conditions": [{"type": "Admitted", "status": "True", "reason": "A", "message": "m"}],
        "certificate": {"chain": "PEM", "csrSha256": "ab", "notAfter": "2026-11-25T05:55:38Z"},
        "issued": [{"serial": "01", "notAfter": "2026-11-25T05:55:38Z", "keySha256": "ab"}],
        "externalWorkload": {"uid": "u", "ports": [8080]},
        "credential": "JWE",
    }
}
GROUP_SPEC = render_group(make_settings().group)
SETTINGS = render_settings(make_settings()).encode()
SECRET = {"data": {"tls.crt": ISSUER.pem, "tls.key": ISSUER.key_pem}}
MARKS = {
    "metadata": {"creationTimestamp": "2026-01-02T03:04:05Z"},
    "data": {"key": base64.b64encode(b"k" * 32).decode()},
}
SECRET = {"data": {key: base64.b64encode(text.encode()).decode() for key, text in SECRET["data"].items()}}
LINKERD = {
    "clusterDomain": "cluster.local",
    "identityTrustDomain": "mesh.example.org",
    "clusterNetworks": "10.0.0.0/8, fd00::/8",
    "linkerdVersion": "edge-26.8.1",
    "proxy": {"image": {"version": "edge-26.8.2"}, "opaquePorts": "25,3306", "defaultInboundPolicy": "deny"},
}
SLICE = {
    "metadata": {"labels": {"kubernetes.io/service-name": "linkerd-policy"}},
    "endpoints": [{"addresses": ["10.42.0.2"], "conditions": {"ready": True}}],
}
EVENT = as_json({"type": "ADDED", "object": MEMBER}) + b"\n"
GONE = as_json({"type": "ERROR", "object": {"code": 410, "details": {"retryAfterSeconds": 1}, "message": "gone"}})


def follow(content: bytes) -> None:
    """A watch whose stream has these bytes."""
    machine = WatchMachine(MEMBERS, None)
    machine.next_action(0.0, 0.5)
    machine.receive(Answered({"metadata": {"resourceVersion": "1"}, "items": []}), 0.0)
    machine.receive(Opened(), 0.0)
    machine.receive(Arrived(content), 1.0)
    machine.receive(Arrived(b"\n"), 1.0)
    for _ in range(len(content) + 10):
        if not isinstance(machine.next_action(2.0, 0.5), Deliver):
            return


def list_members(content: bytes) -> None:
    """A watch whose list is this object."""
    machine = WatchMachine(MEMBERS, None)
    machine.next_action(0.0, 0.5)
    of_object(lambda tree: machine.receive(Answered(tree), 0.0))(content)
    machine.next_action(2.0, 0.5)


def read_issuer_of(secret: Any) -> object:
    return read_issuer(secret, ANCHOR.pem, NOW)


def claims_of(content: bytes) -> str:
    return "e30." + base64.urlsafe_b64encode(content).decode().rstrip("=") + ".c2ln"


def decode_packed(content: bytes) -> object:
    """A join token with this content."""
    return decode_token(PREFIX + base64.urlsafe_b64encode(zlib.compress(content)).decode().rstrip("="))


def unseal_with(header: bytes) -> object:
    """A sealed credential with this header."""
    parts = SEALED.decode().split(".")
    parts[0] = base64.urlsafe_b64encode(header).decode().rstrip("=")
    return unseal(".".join(parts), KEY)


CLUSTER = (
    Target("a watch's stream", follow, [EVENT, EVENT + EVENT, GONE]),
    Target(
        "a list", list_members, [as_json({"metadata": {"resourceVersion": "1", "continue": "c"}, "items": [MEMBER]})]
    ),
    Target("a Member", of_object(view_member), [as_json(MEMBER)], (), (view_member, read_conditions)),
    Target(
        "an ExternalWorkload",
        of_object(lambda tree: (list(workload_addresses(tree)), workload_ports(tree))),
        [as_json(external_workload() | {"spec": {"ports": [{"port": 80}], "workloadIPs": [{"ip": "10.0.0.1"}]}})],
        MALFORMED,
        (workload_addresses, workload_ports),
    ),
    Target(
        "a WorkloadGroup",
        of_object(lambda tree: parse_group("web", tree)),
        [as_json(GROUP_SPEC), as_json(group()["spec"])],
        (ValueError,),
        (parse_group,),
    ),
    Target("settings", of_text(parse_settings), [SETTINGS], (ValueError,), (parse_settings,)),
    Target("the key of marks", of_object(read_key), [as_json(MARKS)], MALFORMED, (read_key,)),
    Target("an issuer's Secret", of_object(read_issuer_of), [as_json(SECRET)], MALFORMED, (read_issuer,)),
    Target(
        "an issuer's certificate",
        lambda pem: read_issuer_of({"data": {**SECRET["data"], "tls.crt": base64.b64encode(pem).decode()}}),
        [ISSUER.pem.encode()],
        (ValueError,),
    ),
    Target(
        "an issuer's key",
        lambda pem: read_issuer_of({"data": {**SECRET["data"], "tls.key": base64.b64encode(pem).decode()}}),
        [ISSUER.key_pem.encode()],
        (ValueError,),
    ),
    Target(
        "trust anchors",
        of_object(read_anchors),
        [as_json({"data": {"ca-bundle.crt": ANCHOR.pem}})],
        MALFORMED,
        (read_anchors,),
    ),
    Target(
        "linkerd-config",
        lambda content: read_linkerd({"data": {"values": content.decode("utf-8", "replace")}}, "linkerd"),
        [as_json(LINKERD), yaml.safe_dump(LINKERD).encode()],
        MALFORMED,
        (read_linkerd,),
    ),
    Target(
        "EndpointSlices",
        of_object(lambda tree: read_control_plane([tree], [], lambda *_: None)),
        [as_json(SLICE)],
        (),
        (read_control_plane,),
    ),
    Target(
        "the answer to a TokenRequest",
        of_object(lambda tree: granted_credential(tree, NOW, 3600)),
        [as_json({"status": {"token": TOKEN, "expirationTimestamp": "2026-11-25T05:55:38Z"}})],
        (ValueError,),
    ),
    Target(
        "a token's claims",
        lambda content: (token_subject(claims_of(content)), read_token_times(claims_of(content))),
        [as_json(CLAIMS)],
        (ValueError,),
        (read_token_times,),
    ),
    Target(
        "a JSON Web Token",
        of_text(read_claims_untrusted),
        [TOKEN.encode()],
        (ValueError,),
        (read_claims_untrusted,),
    ),
    Target(
        "credential.json",
        of_text(parse_credential),
        [render_credential(Credential("t", NOW, NOW + 1)).encode()],
        (ValueError,),
        (parse_credential,),
    ),
    Target("a join token", of_text(decode_token), [JOIN_LINE.encode()], (TokenError,), (decode_token,)),
    Target("a join token, inside", decode_packed, [JOIN_TREE], (TokenError,)),
    Target("a sealed credential", of_text(lambda text: unseal(text, KEY)), [SEALED], (ValueError,)),
    Target(
        "a sealed credential's header",
        unseal_with,
        [base64.urlsafe_b64decode(SEALED.split(b".")[0] + b"==")],
        (ValueError,),
    ),
    Target(
        "a delivery key",
        of_text(read_delivery_key),
        [delivery_key_text(KEY).encode()],
        (ValueError,),
        (read_delivery_key,),
    ),
    Target("a CSR", of_text(read_csr), [make_csr(KEY, "web").encode()], (ValueError,), (read_csr,)),
    Target(
        "a certificate chain",
        of_text(lambda pem: check_svid(pem, LEAF.key, ANCHOR.pem, IDENTITY, not_before(LEAF.certificate) + 60)),
        [CHAIN],
        (SvidError,),
    ),
    Target("a file with CAs", read_certificate_file, [CHAIN], (ValueError,), (read_certificate_file,)),
    Target("a login for a proxy", split_login, [b"me:s3cret\n"], (ValueError,), (split_login,)),
    Target("a proxy's URL", of_text(check_proxy_url), [b"http://[fd00::1]:80/"], (ValueError,), ()),
    Target("PEM", of_text(read_certificates), [CHAIN], (ValueError,), (read_certificates, read_blocks)),
)


# The proxy, its resolver, and people.

PAGE = b"""\
# TYPE tcp_open_connections gauge
tcp_open_connections{peer="src",target_addr="10.77.0.20:8080"} 2
control_identity_cert_expiration_timestamp_seconds 1.7e9
control_response_latency_ms_count{addr="linkerd-policy.linkerd:8090",status_code="200"} 2
control_response_total{addr="linkerd-policy.linkerd:8090",status_code="200",classification="failure"} 1
control_policy_balancer_endpoints{endpoint_state="ready"} 3
control_request_total{addr="linkerd-policy.linkerd:8090"} 7
"""
GREETING = b"INFO linkerd2_proxy: release 2.331.0 (abc1234) by linkerd on 2026-08-01\n"
SERVICES = control_plane_services(make_settings())
QUERY = dns.message.make_query("linkerd-policy.linkerd.svc.cluster.local.", "SRV", use_edns=0).to_wire()
SVIDS = encode_response((X509Svid(IDENTITY.spiffe_id, b"chain", b"key", b"bundle"),))
CALL = (
    *((":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", FETCH_X509_SVID)),
    *(("content-type", "application/grpc"), ("workload.spiffe.io", "true")),
)


def http2_call() -> bytes:
    """A client's whole call."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    client.send_headers(1, CALL)
    client.send_data(1, frame_message(b""), end_stream=True)
    return client.data_to_send()


def serve_call(content: bytes) -> None:
    connection = WorkloadConnection()
    connection.publish(SVIDS)
    connection.receive(content)
    connection.data_to_send()
    connection.close()


def read_page(page: str) -> None:
    list(read_samples(page, "tcp_open_connections", "control"))
    read_expiry(page)
    count_policies(page)
    count_clients(page)
    sample_controllers(page)


def read_options(text: str) -> None:
    for read in (read_port, read_probe, read_failure, read_label):
        try:
            read(text)
        except ValueError:
            continue


def read_words(text: str) -> None:
    for read in (parse_duration, parse_span, split_host_port, parse_member_name):
        try:
            read(text)
        except ValueError:
            continue
    epoch(text)
    read_opaque(text)


CONFIG = b"""\
[proxy]
binary = "/usr/lib/linkerd2-proxy"
drain = "30s"

[redirect]
exclude_outbound_ports = [22, "8000-8100"]

[member]
zone = "a"
"""

PROXY = (
    Target("JSON", parse_json, [as_json(CLAIMS)], (ValueError,), (parse_json,)),
    Target("JSON with an excess", parse_json_cut, [as_json(CLAIMS)], (ValueError,), (parse_json_cut,)),
    Target("an answer of the API server", lambda text: AnswerReader().read(text), [EVENT], (ValueError,)),
    Target("a DNS query over UDP", lambda query: respond(SERVICES, query, over_udp=True), [QUERY], (), (respond,)),
    Target("a DNS query over TCP", lambda query: respond(SERVICES, query, over_udp=False), [QUERY], ()),
    Target("a client of the Workload API", serve_call, [http2_call()]),
    Target(
        "messages of gRPC", lambda content: MessageReader().receive(content), [frame_message(b"abc") * 2], (ValueError,)
    ),
    Target("the proxy's metrics", of_text(read_page), [PAGE], (), (read_samples, read_expiry)),
    Target("the proxy's greeting", of_text(read_version), [GREETING], (), (read_version,)),
    Target("a program's first bytes", interpreter_of, [b"#!/bin/sh\n", b"\x7fELF"]),
)

PEOPLE = (
    Target(
        "config.toml",
        of_text(lambda text: parse_config(text, "config.toml")),
        [CONFIG],
        (ConfigError,),
        (parse_config,),
    ),
    Target(
        "options of group create",
        of_text(read_options),
        [b"name=http,port=8080,opaque", b"port=8080,every=5s,failures=3", b"after=30s,outbound=open", b"app=web"],
        (),
        (read_port, read_probe, read_failure, read_label),
    ),
    Target(
        "a destination to explain",
        of_text(lambda t: parse_query(t.split())),
        [b"inbound [::1]:80", b"a.b:1"],
        (ValueError,),
        (parse_query,),
    ),
    Target(
        "durations, ranges, addresses, names and times",
        of_text(read_words),
        [b"1h30m", b"8000-8100", b"[fd00::1]:80", b"web-k7q2x-1", b"25,4000-4010,db", b"2026-11-25T05:55:38.123456Z"],
        (),
        (parse_duration, parse_span, split_host_port, parse_member_name, read_opaque),
    ),
    Target(
        "what kubectl prints of failures",
        of_text(partial(kubectl_error, KubectlAction("get", MEMBERS, "shop", "a"))),
        [b'Error from server (NotFound): members.exclave.dev "a" not found\n', b'The Member "a" is invalid: spec: x\n'],
    ),
)


AGENT_TARGETS = (*KERNEL, *CLUSTER, *PROXY, *PEOPLE)
