"""What the agent knows of the firewall while others change it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exclave.api.group import Port
from exclave.firewall.observer import find_entrance
from redirect.lab import VM4, Lab, open_lab
from support.mesh import make_settings

OBSERVE = Path(__file__).parent / "programs" / "observe.py"

CLOSED = "add table inet theirs; add chain inet theirs in { type filter hook input priority 0; policy drop; }"
HINT = "nft 'insert rule inet theirs in ct status dnat accept'"
MESSAGE = (
    "what pods send to port 8080 is dropped, by the policy of chain in of table inet theirs: there it is already "
    "redirected to the proxy's port 4143"
)


@contextmanager
def observing(lab: Lab) -> Iterator["subprocess.Popen[bytes]"]:
    command = lab.vm.command(sys.executable, str(OBSERVE), VM4)
    running = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


def printed(running: "subprocess.Popen[bytes]") -> object:
    assert running.stdout is not None
    return json.loads(running.stdout.readline())


async def test_what_others_change_is_known_and_the_named_command_mends_it() -> None:
    async with open_lab() as lab:
        with observing(lab) as running:
            assert printed(running) is None
            await lab.nft(CLOSED)
            assert printed(running) == [MESSAGE, HINT]
            await lab.vm.must("sh", "-c", HINT)
            assert printed(running) is None
            await lab.nft("insert rule inet theirs in tcp dport 4143 counter drop")
            message, hint = printed(running)  # type: ignore[misc]
            assert message.endswith("port 4143 (tcp dport 4143 counter drop)")
            assert hint == HINT
            await lab.nft("delete table inet theirs")
            assert printed(running) is None


async def test_callers_come_by_the_interface_of_the_address_or_of_the_route_to_them() -> None:
    async with open_lab():  # its route to 10.42.0.0/16; addresses are those of this machine
        found = await find_entrance(make_settings(), (VM4,))
        assert (found.ports, found.callers, found.addresses) == ((8080,), ("10.42.0.2",), {VM4: ("eth0",)})
        opaque = make_settings(ports=(Port("db", 5432, opaque=True),))
        assert (await find_entrance(opaque, (VM4,))).ports == (5432, 4143)
        assert (await find_entrance(make_settings(), ("fd00:77::20",))).addresses == {"fd00:77::20": ("",)}
