"""The group's ports at other addresses of the machine: what `exclave explain inbound` answers is what clients get."""

import sys
from dataclasses import replace

import pytest

from .lab import PEER4, PEER6, VM4, VM6, Lab, open_lab, open_rules
from .policies import PLAIN

SECOND4, SECOND6 = "10.77.0.21", "fd00:77::21"
PATIENCE = 0.5  # seconds for a call that nobody answers: it lasts so long

ELSEWHERE = "no policy holds at this address, which is none of captured_addresses in config.toml"

PLACES: dict[str, tuple[str, int, str, str]] = {
    "the member's address": (VM4, 8080, "proxy a", "goes to the proxy, instance a"),
    "another address": (SECOND4, 8080, "TimeoutError", f"is dropped: {ELSEWHERE}"),
    "an address of the other family": (VM6, 8080, "TimeoutError", f"is dropped: {ELSEWHERE}"),
    "a port that is not the group's": (SECOND4, 9000, "application", "bypasses the proxy"),
    "a port that this machine excludes": (SECOND4, 9100, "application", "bypasses the proxy"),
}

POLICY = replace(PLAIN, inbound_ports=(8080, 9100), exempt_inbound_ports=(9100,))


async def prepare(lab: Lab) -> str:
    """Other addresses, and an application that listens at all of them; returns the link-local address."""
    for address in (f"{SECOND4}/24", f"{SECOND6}/64"):
        await lab.vm.must("ip", "address", "add", address, "dev", "eth0")
    lab.listen(lab.vm, "application", *(f"0.0.0.0/{port}" for port in (8080, 9000, 9100)), "::/8080")
    shown = (await lab.vm.must("ip", "-6", "-oneline", "address", "show", "dev", "eth0", "scope", "link")).decode()
    return shown.split()[3].split("/")[0]


@pytest.mark.parametrize(("address", "port", "who", "sentence"), PLACES.values(), ids=PLACES)
async def test_a_client_gets_what_explain_answers(address: str, port: int, who: str, sentence: str) -> None:
    async with open_lab() as lab:
        await prepare(lab)
        async with open_rules(lab, replace(POLICY, closes=True)):
            assert (await lab.call(lab.peer, address, port, timeout=PATIENCE)).who == who
            place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            words = ("explain", "inbound", place, "--from", PEER6 if ":" in address else PEER4, "--interface", "eth0")
            done = await lab.vm.run(sys.executable, "-m", "exclave", *words, "--config", "/nowhere")
            assert done.output.decode().splitlines()[0].startswith(f"{place} from outside {sentence}")


async def test_link_local_addresses_are_closed_and_programs_of_this_machine_get_through() -> None:
    async with open_lab() as lab:
        local = await prepare(lab)
        async with open_rules(lab, replace(POLICY, closes=True)):
            assert (await lab.call(lab.peer, f"{local}%eth0", 8080, timeout=PATIENCE)).who == "TimeoutError"
            assert (await lab.call(lab.vm, SECOND4, 8080)).who == "application"
            assert (await lab.call(lab.vm, "127.0.0.1", 8080)).who == "application"


async def test_a_policy_that_refuses_nobody_closes_nothing() -> None:
    async with open_lab() as lab:
        local = await prepare(lab)
        async with open_rules(lab, POLICY):
            for address in (SECOND4, VM6, f"{local}%eth0"):
                assert (await lab.call(lab.peer, address, 8080)).who == "application"
