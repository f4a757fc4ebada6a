"""Options of join tokens, rows and notes, with every text."""

from typing import Any

import pytest

from exclave.admin.token.checks import (
    check_access,
    check_uses,
    choose_group,
    choose_token,
    count_used,
    life_warning,
    read_ttl,
    refuse_living,
    server_warnings,
    token_accounts,
    token_notes,
    token_row,
)
from exclave.errors import ExclaveError, Fault
from support.mesh import mesh

NOW = 7200.0


def account(name: str, expires: str = "1970-01-01T03:00:00Z") -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": "1970-01-01T01:00:00Z"}
    return {"metadata": {**metadata, "annotations": {"exclave.dev/expires": expires} if expires else {}}}


ACCOUNTS = token_accounts(
    account(name)
    for name in ("web.join.k7q2x-5", "web.rejoin.k7q2x-2", "db.join.aaaaa-1", "web.vm.k7q2x-1", "default", "a.join.b-1")
)


def test_tokens_are_recognised_by_their_accounts_names() -> None:
    assert [(one.name, one.id, one.group, one.uses, one.member) for one in ACCOUNTS] == [
        ("web.join.k7q2x-5", "k7q2x", "web", 5, ""),
        ("web.rejoin.k7q2x-2", "k7q2x-2", "web", 1, "web-k7q2x-2"),
        ("db.join.aaaaa-1", "aaaaa", "db", 1, ""),
    ]


def test_used_are_the_members_of_its_id() -> None:
    names = ["web-k7q2x-1", "web-k7q2x-2", "web-zzzzz-1", "db-k7q2x-3", "odd"]
    assert [count_used(one, names) for one in ACCOUNTS] == [2, 1, 0]


@pytest.mark.parametrize(
    ("expires", "left"),
    [("1970-01-01T03:00:00Z", "in 60m"), ("1970-01-01T02:00:00Z", "expired"), ("soon", "soon"), ("", "")],
)
def test_a_row_of_token_list(expires: str, left: str) -> None:
    (token,) = token_accounts([account("web.rejoin.k7q2x-2", expires)])
    assert token_row(token, ["web-k7q2x-2"], NOW) == ["k7q2x-2", "web", "1", "1", left, "60m", "web-k7q2x-2"]


def test_a_token_is_named_by_its_id_or_whole() -> None:
    assert choose_token(ACCOUNTS, "k7q2x", "shop").name == "web.join.k7q2x-5"
    assert choose_token(ACCOUNTS, "k7q2x-2", "shop").name == "web.rejoin.k7q2x-2"
    assert choose_token(ACCOUNTS, "db.join.aaaaa-1", "shop").id == "aaaaa"


def test_a_missing_token_is_an_error() -> None:
    with pytest.raises(ExclaveError) as refused:
        choose_token(ACCOUNTS, "zzzzz", "shop")
    assert refused.value.message == "there is no join token zzzzz in namespace shop"
    assert refused.value.hint == "it may have expired; list them: kubectl exclave token list -n shop"


def test_an_id_of_two_groups_is_ambiguous() -> None:
    tokens = token_accounts([account("web.join.k7q2x-5"), account("db.join.k7q2x-1")])
    with pytest.raises(ExclaveError) as refused:
        choose_token(tokens, "k7q2x", "shop")
    assert refused.value.message == "two join tokens have the id k7q2x: web.join.k7q2x-5, db.join.k7q2x-1"
    assert refused.value.hint == "use one of these names"


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("1h", 3600), ("24h", 86400), ("1d", 86400)])
def test_a_lifetime_is_read_in_seconds(text: str, seconds: float) -> None:
    assert read_ttl(text) == seconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9m", "--ttl: 10m to 24h was expected, found 9m"),
        ("25h", "--ttl: 10m to 24h was expected, found 25h"),
        ("long", "--ttl: 'long' is not a duration such as 10s, 5m or 24h"),
    ],
)
def test_a_wrong_lifetime_is_refused(text: str, why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        read_ttl(text)
    assert (refused.value.fault, refused.value.message) == (Fault.USAGE, why)


@pytest.mark.parametrize("uses", [0, -1, 1000])
def test_a_wrong_number_of_uses_is_refused(uses: int) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_uses(uses)
    assert refused.value.message == f"--uses: a number from 1 to 999 was expected, found {uses}"


def test_the_group_is_named_or_is_the_members() -> None:
    check_uses(999)
    assert choose_group("web", None, 5) == "web"
    assert choose_group(None, "web-api-k7q2x-1", 1) == "web-api"
    assert choose_group("web", "web-k7q2x-1", 1) == "web"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((None, None, 1), "no group was named"),
        (("db", "web-k7q2x-1", 1), "web-k7q2x-1 is a member of group web, not of db"),
        ((None, "web-k7q2x-1", 2), "--for: a token for one member has one use"),
        ((None, "web", 1), "--for: 'web' is not a member's name such as web-k7q2x-1"),
    ],
)
def test_contradicting_options_are_refused(arguments: tuple[str | None, str | None, int], why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        choose_group(*arguments)
    assert refused.value.message == why


def test_a_live_member_gets_no_token() -> None:
    error = refuse_living("web-k7q2x-1", "shop")
    assert error.message == "web-k7q2x-1 is live and needs no token"
    assert error.hint == (
        "if its machine was replaced, evict it first: kubectl exclave member evict web-k7q2x-1 -n shop"
    )


@pytest.mark.parametrize(
    ("servers", "ca", "why"),
    [
        (["http://10.0.0.1"], mesh().anchor.pem, "http://10.0.0.1 is no https URL of an API server"),
        ([""], mesh().anchor.pem, "the kubeconfig is no https URL of an API server"),
        (["https://10.0.0.1"], "", "the API server's CA is not known: there is no readable one in the kubeconfig"),
        (["https://10.0.0.1"], "PEM", "the API server's CA is not known: there is no readable one in the kubeconfig"),
    ],
)
def test_an_unusable_api_server_is_refused(servers: list[str], ca: str, why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_access(servers, ca)
    assert refused.value.message == why


@pytest.mark.parametrize(
    ("server", "where"),
    [
        ("https://127.0.0.1:6443", "this machine only"),
        ("https://[::1]:6443", "this machine only"),
        ("https://0.0.0.0:6443", "this machine only"),
        ("https://169.254.1.1", "this link only"),
        ("https://localhost:6443", "this machine or cluster only"),
        ("https://kubernetes.docker.internal:6443", "this machine or cluster only"),
        ("https://kubernetes.default.svc", "the cluster's own network"),
    ],
)
def test_a_local_address_of_the_api_server_has_a_warning(server: str, where: str) -> None:
    assert server_warnings([server, "https://10.0.0.1:6443", "https://api.example.com"]) == [
        f"{server} is an address of {where}: name one that machines reach with --server"
    ]


def test_a_shorter_lifetime_is_a_warning() -> None:
    assert life_warning(3600.0, 3590.0) is None
    assert life_warning(86400.0, 3600.0) == (
        "this API server limits the lifetime of tokens: it granted 60m instead of 24h"
    )


@pytest.mark.parametrize(
    ("member", "uses", "first"),
    [
        (None, 1, "with the line above one machine joins: group web, namespace shop"),
        (None, 20, "with the line above up to 20 machines join: group web, namespace shop"),
        (
            "web-k7q2x-1",
            1,
            "with the line above this machine becomes member web-k7q2x-1 again: group web, namespace shop",
        ),
    ],
)
def test_notes_about_a_new_token(member: str | None, uses: int, first: str) -> None:
    assert token_notes("web", "shop", member, uses, NOW + 3599.6, NOW) == [
        first,
        "until 1970-01-01T02:59:59Z (in 60m); everybody who has the line can use it",
        "on the machine: sudo exclave join, then paste the line",
    ]
