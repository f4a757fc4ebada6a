"""Groups as an admin sees them."""

from exclave.admin.group.rows import GROUP_TITLES, accepted_words, broken_lines, group_lines, group_row
from exclave.admin.token.checks import token_accounts
from exclave.api.group import parse_group

NOW = 7200.0
SPEC = {
    "networks": ["10.0.0.0/8", "fd00::/8"],
    "labels": {"app": "web"},
    "ports": [{"name": "http", "port": 8080}, {"name": "5432", "port": 5432, "opaque": True}],
}
GROUP = {"metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "1970-01-01T01:00:00Z"}, "spec": SPEC}
LIVE = {"type": "Live", "status": "True"}
MEMBERS = [
    {"metadata": {"name": "web-k7q2x-1"}, "status": {"conditions": [LIVE]}},
    {"metadata": {"name": "web-k7q2x-2"}},
]


def accepted(status: str, reason: str) -> dict[str, object]:
    return {**GROUP, "status": {"conditions": [{"type": "Accepted", "status": status, "reason": reason}]}}


def test_a_row_counts_live_members() -> None:
    row = dict(zip(GROUP_TITLES, group_row(GROUP, MEMBERS, NOW), strict=True))
    assert row == {
        "NAME": "web",
        "ACCOUNT": "web",
        "PORTS": "http:8080,5432/opaque",
        "NETWORKS": "10.0.0.0/8,fd00::/8",
        "LIVE": "1/2",
        "ACCEPTED": "Unknown",
        "AGE": "60m",
    }
    assert group_row(GROUP, [], NOW, True)[0] == "shop"


def test_why_a_group_is_not_accepted_is_its_reason() -> None:
    assert accepted_words(accepted("True", "Accepted")) == "True"
    assert accepted_words(accepted("False", "AccountShared")) == "AccountShared"


def test_an_invalid_group_is_described_with_the_reason() -> None:
    assert broken_lines(GROUP, "networks: none") == [
        ("Name", "web"),
        ("Namespace", "shop"),
        ("Spec", "invalid: networks: none"),
        ("Conditions", ""),
    ]


def test_a_description_is_complete() -> None:
    account = {"metadata": {"name": "web.join.k7q2x-5", "annotations": {"exclave.dev/expires": "1970-01-01T03:00:00Z"}}}
    service = {"metadata": {"name": "front"}}
    lines = dict(group_lines(GROUP, parse_group("web", SPEC), MEMBERS, token_accounts([account]), [service], NOW))
    members, tokens = lines.pop("Members"), lines.pop("Tokens")
    assert lines == {
        "Name": "web",
        "Namespace": "shop",
        "Age": "60m",
        "Service account": "web",
        "Networks": "10.0.0.0/8, fd00::/8",
        "Ports": "http:8080, 5432/opaque",
        "Labels": "app=web, exclave.dev/group=web",
        "Certificates": "valid for 24h",
        "Capture": "cluster",
        "Inbound policy": "the mesh's",
        "Probes": "",
        "On failure": "after 30s: outbound open, inbound closed",
        "Forgotten": "720h after the last heartbeat",
        "Conditions": "",
        "Services": "front",
    }
    assert [line.split()[0] for line in members.splitlines()] == ["NAME", "web-k7q2x-1", "web-k7q2x-2"]
    assert tokens.splitlines()[1].split()[:6] == ["k7q2x", "web", "5", "2", "in", "60m"]
