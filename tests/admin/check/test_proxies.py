"""The rows of `check --proxy`."""

from typing import Any

import pytest

from exclave.admin.check.proxies import proxy_rows
from exclave.api.requests import Object
from exclave.kit.formats.times import rfc3339
from support.store import member

NOW = 1_800_000_000.0
ANCHORS = "ab" * 32
ADMITTED = {"type": "Admitted", "status": "True", "reason": "Admitted", "message": ""}


def serving(name: str = "web-k7q2x-1", ends: float = NOW + 60, **spec: Any) -> Object:
    """A member without a fault; `spec` replaces fields."""
    made = member(name)
    loaded = {"anchors": ANCHORS, "proxy": "2.366.0"}
    made["metadata"]["namespace"] = "shop"
    made["spec"] |= {"serving": True, "dataPath": "meshed", "loaded": loaded, **spec}
    certificate = {"csrSha256": "cd" * 32, "chain": "x", "notAfter": rfc3339(ends)}
    return {**made, "status": {"conditions": [ADMITTED], "certificate": certificate}}


def problems(*members: Object, anchors: str | None = ANCHORS) -> list[tuple[str, str, str]]:
    return [(one.result, one.title, one.problem) for one in proxy_rows(members, anchors, NOW) if one.problem]


def test_members_that_serve_have_no_problem() -> None:
    assert problems(serving(), serving("web-k7q2x-2")) == []
    assert problems() == []


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (
            serving(dataPath="down", dataPathReason="the proxy is away"),
            ("error", "every member's proxy serves", "shop/web-k7q2x-1: down (the proxy is away)"),
        ),
        (serving(serving=False), ("error", "every member's proxy serves", "shop/web-k7q2x-1: not serving")),
        (serving(ends=NOW), ("error", "every member has a valid certificate", "shop/web-k7q2x-1")),
        (
            serving(loaded={"anchors": "00" * 32}),
            ("warning", "every member's proxy has the current trust anchors", "shop/web-k7q2x-1"),
        ),
        (serving(loaded={}), ("warning", "every member's proxy has the current trust anchors", "shop/web-k7q2x-1")),
    ],
    ids=["data path down", "not serving", "certificate ended", "older anchors", "anchors not reported"],
)
def test_each_fault_is_named_with_the_member(found: Object, problem: tuple[str, str, str]) -> None:
    assert problems(found, serving("web-k7q2x-2")) == [problem]


def test_anchors_that_cannot_be_read_are_not_compared() -> None:
    assert problems(serving(loaded={"anchors": "00" * 32}), anchors=None) == []


def test_different_versions_of_the_proxy_are_counted() -> None:
    older = serving("web-k7q2x-2", loaded={"anchors": ANCHORS, "proxy": "2.359.0"})
    title = "all members run the same version of the proxy"
    assert problems(serving(), older) == [("warning", title, "2.359.0 on 1, 2.366.0 on 1")]


def test_members_that_are_not_admitted_or_leave_are_not_asked() -> None:
    waiting = {**serving(dataPath="down"), "status": {}}
    leaving = serving(dataPath="down")
    leaving["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert problems(waiting, leaving) == []
