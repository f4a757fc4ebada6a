"""Who is read, and of whom nothing is concluded."""

import pytest

from exclave.api.requests import Object, Request
from exclave.controller.lease_recheck import MOST_ASKED, recheck_leases
from exclave.errors import ApiRefusal, ClusterError, Fault

A, B, C = ("shop", "web-a-1"), ("shop", "web-b-1"), ("shop", "web-c-1")


class Server:
    """Has the Lease of everybody whom no problem is named for."""

    def __init__(self, problems: dict[tuple[str, str], ClusterError] | None = None) -> None:
        self.problems = problems or {}
        self.asked: list[tuple[str, str]] = []

    async def send(self, request: Request) -> Object:
        parts = request.path.split("/")
        key = parts[-3], parts[-1]
        self.asked.append(key)
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


async def test_of_a_lease_that_is_gone_silence_is_believed() -> None:
    assert await names(Server({A: refusal(404)}), A, B) == (["web-b-1"], set())


@pytest.mark.parametrize("problem", [refusal(429), refusal(500), ClusterError(Fault.UNREACHABLE, "away", "")])
async def test_a_server_with_other_worries_is_not_pressed_and_nothing_is_concluded(problem: ClusterError) -> None:
    server = Server({B: problem})
    assert await names(server, A, B, C) == (["web-a-1"], {B, C})
    assert server.asked == [A, B]


async def test_so_many_are_read_at_once_and_of_the_rest_nothing_is_concluded() -> None:
    everybody = [("shop", f"web-a-{number:03}") for number in range(MOST_ASKED + 2)]
    found, unread = await recheck_leases(Server(), everybody)
    assert (len(found), unread) == (MOST_ASKED, set(everybody[-2:]))
