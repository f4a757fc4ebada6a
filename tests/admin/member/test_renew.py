"""`member renew` against the sandbox's API server, with machines that answer as agents do."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from exclave.admin.member.renew import answers
from exclave.admin.objects import Manifest, group_objects
from exclave.api.member import Renewal, renewal_fields, view_member
from exclave.api.requests import MEMBERS, Object, path_of
from peers.conftest import Server
from support.admin import Admin, put
from support.store import member

FIRST, SECOND, OTHER = "web-k7q2x-1", "web-k7q2x-2", "db-aaaaa-1"


@pytest.fixture(autouse=True)
def members(server: Server, namespace: str) -> None:
    """Three live members."""
    manifest = group_objects(namespace, "web", {"networks": ["10.0.0.0/8"]}, "exclave")
    manifest += [Manifest(MEMBERS, namespace, member(name, addresses=["10.0.0.5"])) for name in (FIRST, SECOND, OTHER)]
    put(server, manifest)
    for name in (FIRST, SECOND, OTHER):
        set_live(server, namespace, name, "True")


def set_live(server: Server, namespace: str, name: str, live: str) -> None:
    condition = {"type": "Live", "status": live, "reason": "HeartbeatsArrive", "message": ""}
    patch(server, f"{path_of(MEMBERS, namespace)}/{name}/status", {"status": {"conditions": [condition]}})


def patch(server: Server, path: str, body: Object) -> None:
    headers = {"content-type": "application/merge-patch+json"}
    with server.client(server.admin_token) as client:
        assert client.patch(path, json=body, headers=headers).status_code == 200


@contextmanager
def answering(server: Server, namespace: str, answer: Callable[[str, str], Object | None]) -> Iterator[list[str]]:
    """Machines that answer each request once, by `answer(name, request)`. Yields the names that were asked."""
    asked: list[str] = []
    ends = threading.Event()

    def run() -> None:
        handled: set[tuple[str, str]] = set()
        with server.client(server.admin_token) as client:
            while not ends.is_set():
                for found in client.get(path_of(MEMBERS, namespace)).json()["items"]:
                    view = view_member(found)
                    key = (view.name, view.renewal_request)
                    if view.renewal_request and key not in handled:
                        handled.add(key)
                        asked.append(view.name)
                        fields = answer(*key)
                        if fields is not None:
                            patch(server, f"{path_of(MEMBERS, namespace)}/{view.name}", {"spec": fields})
                time.sleep(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield asked
    finally:
        ends.set()
        thread.join()


def renewed(_name: str, request: str) -> Object:
    return renewal_fields(request, "renewed", "the certificate ends at 2027-01-16T08:00:00Z")


def test_each_member_that_is_named_is_asked_once_and_reported(admin: Admin, server: Server, namespace: str) -> None:
    with answering(server, namespace, renewed) as asked:
        typed = admin.type("member", "renew", FIRST, SECOND, FIRST, "-n", namespace)
    assert typed.code == 0
    assert sorted(typed.out.splitlines()) == [
        f"member {FIRST} renewed: the certificate ends at 2027-01-16T08:00:00Z",
        f"member {SECOND} renewed: the certificate ends at 2027-01-16T08:00:00Z",
    ]
    assert sorted(asked) == [FIRST, SECOND]


def test_a_group_is_asked_and_one_that_does_not_renew_is_3(admin: Admin, server: Server, namespace: str) -> None:
    def answer(name: str, request: str) -> Object:
        failed = renewal_fields(request, "failed", "the controller has signed nothing for 60 s")
        return failed if name == SECOND else renewed(name, request)

    with answering(server, namespace, answer) as asked:
        typed = admin.type("member", "renew", "--group", "web", "-n", namespace)
    assert typed.code == 3
    assert sorted(typed.out.splitlines()) == [
        f"member {FIRST} renewed: the certificate ends at 2027-01-16T08:00:00Z",
        f"member {SECOND} not renewed: the controller has signed nothing for 60 s",
    ]
    assert sorted(asked) == [FIRST, SECOND]


def test_one_that_is_away_or_does_not_answer_is_3(admin: Admin, server: Server, namespace: str) -> None:
    set_live(server, namespace, SECOND, "False")
    typed = admin.type("member", "renew", "--group", "web", "--timeout", "1s", "-n", namespace)
    assert typed.code == 3
    assert typed.out.splitlines() == [
        f"member {SECOND} not renewed: no heartbeat arrives; it renews when it is back",
        f"member {FIRST} not renewed: no answer within 1s",
    ]
    assert typed.err.splitlines()[1] == (
        "an agent or definitions (kubectl exclave upgrade) of an older version do not answer; on the machine, exclave "
        "status and exclave renew show more"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which members?"),
        ((FIRST, "--group", "web"), "which members?"),
        (("--group", "api"), "there are no members of group api in namespace NAMESPACE"),
        ((FIRST, "web-zzzzz-1"), "there is no member web-zzzzz-1 in namespace NAMESPACE"),
    ],
)
def test_a_wrong_request_asks_nobody(admin: Admin, namespace: str, words: tuple[str, ...], message: str) -> None:
    typed = admin.type("member", "renew", *words, "-n", namespace)
    assert (typed.code, typed.out) == (2, "")
    assert typed.err.splitlines()[0] == f"exclave: {message.replace('NAMESPACE', namespace)}"
    found = [admin.kubectl.get(MEMBERS, namespace, name) or {} for name in (FIRST, SECOND, OTHER)]
    assert [view_member(one).renewal_request for one in found] == ["", "", ""]


def test_answers_are_those_to_this_request_of_members_that_are_waited_for() -> None:
    def answered(name: str, **fields: Any) -> Object:
        return member(name, **fields)

    earlier = answered(FIRST, **renewal_fields("r1", "renewed"))
    now = answered(SECOND, **renewal_fields("r2", "too-soon", "ask again"))
    unasked = answered(OTHER, **renewal_fields("r2", "renewed"))
    assert answers([earlier, now, unasked], {FIRST, SECOND, "gone"}, "r2") == {
        SECOND: Renewal("r2", "too-soon", "ask again"),
        "gone": None,
    }
