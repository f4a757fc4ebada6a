"""Foreign tables as they are read from the kernel."""

import shutil

from exclave.firewall.read import read_rule_text, read_tables
from redirect.lab import open_lab
from support.needs import need

DORMANT = "add table inet d { flags dormant; }; add chain inet d in { type filter hook input priority 0; policy drop; }"


async def test_tables_of_others_are_read_and_ours_are_not() -> None:
    need(shutil.which("iptables-nft") is not None, "iptables-nft is not installed")
    async with open_lab() as lab:
        assert await read_tables() == ()
        await lab.nft("add table inet exclave; add chain inet exclave in { type filter hook input priority 0; }")
        await lab.nft(DORMANT)
        await lab.vm.must("iptables-nft", "-A", "INPUT", "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT")
        dormant, iptables = sorted(await read_tables(), key=lambda table: table.name)
        assert (dormant.name, dormant.is_dormant, iptables.is_dormant) == ("d", True, False)
        (rule,) = iptables.chains["INPUT"].rules
        assert rule.saved == "-A INPUT -m conntrack --ctstate DNAT -j ACCEPT"
        assert [next(iter(statement)) for statement in rule.statements] == ["any", "accept"]


async def test_the_text_of_a_rule_has_no_counters() -> None:
    async with open_lab() as lab:
        await lab.nft("add table ip t; add chain ip t in { type filter hook input priority 0; }")
        await lab.nft("add rule ip t in tcp dport 4143 counter drop")
        (table,) = await read_tables()
        (rule,) = table.chains["in"].rules
        assert await read_rule_text(table, rule) == "tcp dport 4143 counter drop"
        await lab.nft("flush chain ip t in")
        assert await read_rule_text(table, rule) == ""
