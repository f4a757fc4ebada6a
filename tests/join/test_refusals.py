"""Refusals that joining itself does not reach in a test of its own: what each answer means for whom."""

import base64
import json

import pytest

from exclave.api.join_token import JoinToken
from exclave.api.member import Condition, MemberView
from exclave.errors import ApiRefusal, ClusterError, Fault
from exclave.join.refusals import clocks_differ, not_admitted, read_refusal, translated, used_up

SUBJECT = {"sub": "system:serviceaccount:shop-vms:web.join.k7q2x-1"}
JWT = f"e.{base64.urlsafe_b64encode(json.dumps(SUBJECT).encode()).decode().rstrip('=')}.s"
TOKEN = JoinToken(("https://10.0.0.1:6443",), "PEM", "shop", "web", JWT, 1000.0)
SERVER = TOKEN.servers[0]


def refused(status: int) -> ApiRefusal:
    return ApiRefusal(status, "", "the server's words", "a hint")


CASES: dict[str, tuple[int, float, float | None, Fault]] = {
    "401 before the token's end: revoked": (401, 900.0, 0.0, Fault.TOKEN_REVOKED),
    "401 after the token's end: expired": (401, 1100.0, 0.0, Fault.TOKEN_EXPIRED),
    "401 with clocks far apart: the clocks": (401, 900.0, -301.0, Fault.CLOCK_SKEW),
    "401 without a Date: revoked": (401, 900.0, None, Fault.TOKEN_REVOKED),
    "403: the server's words": (403, 900.0, 0.0, Fault.NOT_PERMITTED),
    "422: the admission policy's words": (422, 900.0, 0.0, Fault.NOT_PERMITTED),
}


@pytest.mark.parametrize(("status", "now", "skew", "fault"), CASES.values(), ids=CASES)
def test_an_answer_means(status: int, now: float, skew: float | None, fault: Fault) -> None:
    found = translated(refused(status), TOKEN, now, SERVER, skew)
    assert found.fault is fault
    if status in (403, 422):
        assert found.message == "the server's words"


def test_nobody_reached_stays_what_it_was() -> None:
    problem = ClusterError(Fault.UNREACHABLE, "no way", "mend it")
    assert translated(problem, TOKEN, 0, SERVER, None) is problem
    problem.cause_kind = "tls-ca"
    assert translated(problem, TOKEN, 0, SERVER, None).fault is Fault.CA_MISMATCH


def test_words() -> None:
    assert used_up(TOKEN).message == (
        "the join token for group shop/web is used up: its one name is taken by other machines"
    )
    assert clocks_differ(SERVER, 301).message == (
        "the clock of https://10.0.0.1:6443 is 301 s ahead of this machine's; at most 300 s were expected"
    )
    assert not_admitted("shop", "m", "").message == "the controller did not admit Member shop/m within 60 s"


@pytest.mark.parametrize(
    "condition",
    [None, Condition("Admitted", True, "Admitted", ""), Condition("Admitted", False, "Odd", "")],
    ids=["nothing said", "admitted", "a reason unknown here"],
)
def test_what_is_no_refusal(condition: Condition | None) -> None:
    assert read_refusal(MemberView("m", admitted=condition), TOKEN) is None
