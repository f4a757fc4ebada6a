"""Which Leases are read again, and whose members stay live."""

import pytest

from exclave.api.requests import Object, Request
from exclave.controller.run import MOST_RECHECKED, recheck_leases
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
