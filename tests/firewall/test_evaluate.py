"""What becomes of a new connection, by our evaluation and by the kernel: a pod connects."""

import shutil
from dataclasses import replace
from ipaddress import ip_address

from exclave.firewall.evaluate import Arrival, Outcome, Verdict, evaluate
from exclave.firewall.read import read_tables
from redirect.lab import PEER4, PEER6, VM4, VM6, CallResult, Lab, open_lab, open_rules
from redirect.policies import GOLDEN
from support.needs import need

from .rows import Row, rows

OWN, POD = {4: VM4, 6: VM6}, {4: PEER4, 6: PEER6}
POLICIES = {4: GOLDEN["plain"][1], 6: replace(GOLDEN["ipv6-member"][1], inbound_ports=(8080,))}

LONG, SHORT = 5.0, 0.3  # seconds for an answer, and until none is expected any more

RESTORE = {4: "iptables-nft-restore", 6: "ip6tables-nft-restore"}


async def load(lab: Lab, row: Row, family: int) -> None:
    """Load a row's rules by the program that people use."""
    command = [RESTORE[family]] if row.is_iptables else ["nft", "-f", "-"]
    loaded = await lab.vm.run(*command, stdin=row.rules.encode())
    assert (loaded.status, loaded.errors) == (0, ""), row.name


async def unload(lab: Lab) -> None:
    """Remove all tables but ours."""
    for line in (await lab.nft("list", "tables")).splitlines():
        if not line.startswith("table inet exclave"):
            await lab.nft("delete", *line.split())


async def experience(lab: Lab, family: int, expected: Outcome) -> Outcome:
    """What a pod experiences."""
    timeout = SHORT if expected is Outcome.DROPPED else LONG
    answer = await lab.call(lab.peer, OWN[family], 8080, timeout=timeout)
    if answer == CallResult("proxy a", (OWN[family], 8080)):
        return Outcome.PROXY
    return Outcome.BYPASSES if answer.who in ("application", "elsewhere") else Outcome.DROPPED


def decided_by(verdict: Verdict) -> tuple[str, ...] | None:
    found = verdict.decision
    return (found.base.name, found.chain.name, "rule" if found.rule else "policy") if found is not None else None


async def test_each_firewall_does_to_a_pod_s_connection_what_we_evaluate() -> None:
    need(shutil.which("iptables-nft") is not None, "iptables-nft is not installed")
    wrong: dict[str, object] = {}
    for family in (4, 6):
        async with open_lab() as lab, open_rules(lab, POLICIES[family]):
            lab.listen(lab.vm, "application", f"{OWN[family]}/8080")
            lab.listen(lab.vm, "elsewhere", f"{OWN[family]}/9999")
            arrival = Arrival(ip_address(OWN[family]), 8080, ip_address(POD[family]), "eth0")
            for row in rows(family):
                await load(lab, row, family)
                verdict = evaluate(await read_tables(), arrival)
                found = (verdict.outcome, decided_by(verdict), await experience(lab, family, row.experience))
                await unload(lab)
                if found != (row.outcome, row.decided_by, row.experience):
                    wrong[f"{row.name}, family {family}"] = found
    assert wrong == {}
