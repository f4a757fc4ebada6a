"""Which Leases are read again, and whose members stay live."""

import pytest

from exclave.api.requests import LEASES, Object, Request
from exclave.cluster.watch import Upserted
from exclave.controller.cache import Cache
from exclave.controller.policy.liveness import Liveness
from exclave.controller.run import MOST_RECHECKED, Controller, Locations, recheck_leases
from exclave.errors import ApiRefusal, ClusterError, Fault

A, B, C = ("shop", "web-a-1"), ("shop", "web-b-1"), ("shop", "web-c-1")


class Server:
    """A cluster that has every Lease except those with a problem."""

    def __init__(self, problems: dict[tuple[str, str], ClusterError] | None = None) -> None:
        self.problems = problems or {}
        self.read: list[tuple[str, str]] = []

    async def send(self, request: Request) -> Object:
        parts = request.path.split("/")
        key = parts[-3], parts[-1]
        self.read.append(key)
        if key in self.problems:
            raise self.problems[key]
        return {"metadata": {"namespace": key[0], "name": key[1]}}


def refusal(status: int) -> ApiRefusal:
    return ApiRefusal(status, "", "no", "")


async def names(server: Server, *silent: tuple[str, str]) -> tuple[list[str], set[tuple[str, str]]]:
    found, unread = await recheck_leases(server, silent)
    return [lease["metadata"]["name"] for lease in found], unread


async def test_each_lease_is_read() -> None:
    assert await names(Server(), A, B) == (["web-a-1", "web-b-1"], set())


async def test_a_member_whose_lease_is_gone_is_silent() -> None:
    assert await names(Server({A: refusal(404)}), A, B) == (["web-b-1"], set())


@pytest.mark.parametrize("problem", [refusal(429), refusal(500), ClusterError(Fault.UNREACHABLE, "away", "")])
async def test_the_first_failure_ends_the_round_and_the_rest_stays_unread(problem: ClusterError) -> None:
    server = Server({B: problem})
    assert await names(server, A, B, C) == (["web-a-1"], {B, C})
    assert server.read == [A, B]


async def test_a_round_reads_200_leases_and_the_rest_stays_unread() -> None:
    silent = [("shop", f"web-a-{number:03}") for number in range(MOST_RECHECKED + 2)]
    found, unread = await recheck_leases(Server(), silent)
    assert (len(found), unread) == (MOST_RECHECKED, set(silent[-2:]))


def test_only_leases_with_the_label_of_members_are_watched() -> None:
    controller = Controller(None, Locations(), lambda: 0.0, lambda: 0.0)  # type: ignore[arg-type]
    (watch,) = [one for one in controller._watches() if one.resource is LEASES]
    assert (watch.labels, watch.namespace) == ("exclave.dev/group", None)


def test_a_lease_with_the_label_but_without_a_member_is_no_evidence() -> None:
    members, leases = Cache(), Cache()
    found = Liveness(members, leases)
    for renewed in ("2027-01-15T08:00:00.000000Z", "2027-01-15T08:00:10.000000Z"):
        metadata = {"namespace": "shop", "name": "web-a-1"}
        leases.apply(Upserted({"metadata": metadata, "spec": {"renewTime": renewed}}))
        found.observe(A, 0.0)
        found.mark_live([A])
    assert not found.live
    members.apply(Upserted({"metadata": {"namespace": "shop", "name": "web-a-1"}}))
    found.mark_live([A])
    assert found.live == {A}
