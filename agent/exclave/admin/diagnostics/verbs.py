"""`identity`, `policy` and `proxy-metrics`: for machines, in place of commands of the same names of Linkerd's CLI.

Linkerd asks pods through their kubelet. A machine has none, and the ports that these commands ask listen on the machine
only. So the first two read the cluster's objects, and the third names the command to type on the machine.
"""

import argparse
from collections.abc import Iterator, Sequence

from exclave.admin import arguments
from exclave.admin.check.snapshot import ClusterSnapshot, find_linkerd
from exclave.admin.diagnostics.policy import PolicyObjects, port_lines
from exclave.admin.session import Session
from exclave.admin.tables import describe_text
from exclave.api import requests as kinds
from exclave.api.malformed import mappings_in
from exclave.api.member import MemberView, view_member
from exclave.api.requests import Object, Resource
from exclave.errors import ApiRefusal, UsageError
from exclave.kit.formats.visible_text import join_lines
from exclave.kit.formats.x509 import fields_of, fingerprint, read_certificates
from exclave.kit.host.output import print_out

ON_MACHINE = "what its proxy serves now is shown on the machine: exclave proxy identity"


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add the three commands."""
    summary = "show the certificates that were signed last for members; in place of linkerd identity"
    identity = arguments.add_verb(
        subparsers,
        "identity",
        _identity,
        summary,
        "kubectl exclave identity web-k7q2x-1 -n shop",
        "kubectl exclave identity web-k7q2x-1 -n shop --pem | openssl x509 -text",
    )
    identity.add_argument("names", nargs="+", metavar="MEMBER")
    identity.add_argument("--pem", action="store_true", help="print the chains as PEM, leaf first")
    summary = "show which of Linkerd's policies hold at a member's ports; in place of linkerd diagnostics policy"
    policy = arguments.add_verb(
        subparsers,
        "policy",
        _policy,
        summary,
        "kubectl exclave policy web-k7q2x-1 -n shop",
        "kubectl exclave policy web-k7q2x-1 8080 -n shop",
    )
    policy.add_argument("name", metavar="MEMBER")
    policy.add_argument("port", nargs="?", type=int, metavar="PORT", help="this port; default: all that are listed")
    arguments.add_namespaces(policy)
    summary = "name the command for the metrics of a member's proxy; in place of linkerd diagnostics proxy-metrics"
    metrics = arguments.add_verb(
        subparsers, "proxy-metrics", _proxy_metrics, summary, "kubectl exclave proxy-metrics web-k7q2x-1 -n shop"
    )
    metrics.add_argument("name", metavar="MEMBER")


def _identity(session: Session, options: argparse.Namespace) -> int:
    views = [view_member(session.find(kinds.MEMBERS, "member", name)) for name in options.names]
    shown = [identity_lines(view) for view in views]
    for number, (view, lines) in enumerate(zip(views, shown, strict=True)):
        if options.pem:
            print_out(*(view.certificate.chain.strip() if view.certificate is not None else "").split("\n"))
        else:
            print_out(*[""] * (number > 0), describe_text(lines))
    session.note(ON_MACHINE)
    return 0


def identity_lines(view: MemberView) -> list[tuple[str, str]]:
    """Labels and texts of a member's certificate. Raises UsageError if there is none, or if it cannot be read."""
    if view.certificate is None:
        hint = f"see why: kubectl exclave member describe {view.name}"
        raise UsageError(f"no certificate has been signed for member {view.name} yet", hint)
    try:
        leaf, *issuers = read_certificates(view.certificate.chain)
    except ValueError as problem:
        raise UsageError(
            f"the certificate in the status of member {view.name} cannot be read: {problem}",
            "check whether somebody changed it, and renew it: kubectl exclave member renew",
        ) from None
    found = fields_of(leaf)
    chain = [f"{one.subject.rfc4514_string()}  sha256 {fingerprint(one)}" for one in issuers]
    return [
        ("Member", view.name),
        ("Names", join_lines(found.names)),
        ("Subject", found.subject),
        ("Issuer", found.issuer),
        ("Serial", found.serial),
        ("Valid", f"from {found.not_before} until {found.not_after}"),
        ("SHA-256", found.sha256),
        ("Chain", join_lines(chain)),
    ]


def _policy(session: Session, options: argparse.Namespace) -> int:
    session.find(kinds.MEMBERS, "member", options.name)
    workload = session.kubectl.get(kinds.EXTERNAL_WORKLOADS, session.namespace, options.name)
    if workload is None:
        hint = f"see why: kubectl exclave member describe {options.name}"
        raise UsageError(f"member {options.name} has no ExternalWorkload, so no policy can select it", hint)
    ports = [options.port] if options.port is not None else _listed_ports(workload)
    if not ports:
        hint = f"name a port: kubectl exclave policy {options.name} PORT"
        raise UsageError(f"no port of member {options.name} is listed now", hint)
    found, default = _read_policies(session), _default_policy(session, options)
    for number, port in enumerate(ports):
        print_out(*[""] * (number > 0), describe_text(port_lines(workload, port, found, default)))
    session.note("by the objects in the cluster; Linkerd's policy controller was not asked")
    return 0


def _default_policy(session: Session, options: argparse.Namespace) -> str:
    """Linkerd's default inbound policy, from its ConfigMap."""
    cluster = ClusterSnapshot(session.kubectl, options.controller_namespace, options.linkerd_namespace)
    try:
        linkerd, _ = find_linkerd(session.kubectl, cluster.linkerd)
    except ApiRefusal:
        linkerd = None  # an admin of one namespace may not read it
    return linkerd.inbound_policy if linkerd is not None else "unknown"


def _listed_ports(workload: Object) -> list[int]:
    ports = (one.get("port") for one in mappings_in(workload.get("spec"), "ports"))
    return list(dict.fromkeys(port for port in ports if isinstance(port, int)))


def _read_policies(session: Session) -> PolicyObjects:
    def read(*resources: Resource, everywhere: bool = False) -> Iterator[Object]:
        for one in resources:
            try:
                yield from session.kubectl.list(one, None if everywhere else session.namespace)
            except ApiRefusal as refusal:
                if refusal.status != 404:  # 404: this cluster does not have the kind
                    raise

    return PolicyObjects(
        servers=list(read(kinds.SERVERS)),
        authorizations=list(read(kinds.AUTHORIZATION_POLICIES)),
        server_authorizations=list(read(kinds.SERVER_AUTHORIZATIONS)),
        routes=list(read(*kinds.ROUTES)),
        authentications=list(read(kinds.MESH_TLS_AUTHENTICATIONS, kinds.NETWORK_AUTHENTICATIONS, everywhere=True)),
    )


def _proxy_metrics(session: Session, options: argparse.Namespace) -> int:
    view = view_member(session.find(kinds.MEMBERS, "member", options.name))
    raise UsageError(
        f"the metrics of member {view.name} cannot be read from here: its proxy serves them on the machine only",
        f"type this on the machine{_place_text(view)}: exclave proxy metrics",
    )


def _place_text(view: MemberView) -> str:
    """The machine's host name and address, as far as they are known."""
    known: Sequence[str] = [text for text in (view.facts.get("hostname", ""), *view.addresses) if text]
    return f" ({', '.join(known)})" if known else ""
