"""Firewalls as people have them, and what a pod that connects to the group's port 8080 experiences.

`rulesets/rows.txt` has a row for each: its name, the expected values, its rules. Words in capitals are filled in for
each family: WORD (ip or ip6), OWN (the machine's address), POD, LAN (a network with both), ELSEWHERE (one without
them), ONE (a single host that is no pod), PRIVATE (the private link), NFPROTO.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from exclave.firewall.evaluate import Outcome

RULESETS = Path(__file__).with_name("rulesets")

_WORDS = ("WORD", "NFPROTO", "OWN", "POD", "LAN", "ELSEWHERE", "ONE", "PRIVATE")
_VALUES = {
    4: "ip ipv4 10.77.0.20 10.77.0.30 10.77.0.0/24 192.0.2.0/24 10.77.0.99 169.254.77.0/29",
    6: "ip6 ipv6 fd00:77::20 fd00:77::30 fd00:77::/64 2001:db8::/32 fd00:77::99 fd77:ec1a:7e::/64",
}


@dataclass(frozen=True)
class Row:
    """A firewall. `decided_by`: chain at the hook, chain, and `rule` or `policy`.

    `experience`: what the pod experiences, also where we cannot know it.
    """

    name: str
    rules: str
    outcome: Outcome
    decided_by: tuple[str, ...] | None
    experience: Outcome
    is_iptables: bool = False


def rows(family: int) -> list[Row]:
    """The rows, and what real programs load.

    ufw 0.36.2 after `ufw allow 22/tcp; ufw allow 8080/tcp; ufw enable`; firewalld 1.3.3 as installed by Debian 12.
    """
    words = dict(zip(_WORDS, _VALUES[family].split(), strict=True))
    text = re.sub(rf"\b({'|'.join(words)})\b", lambda found: words[found[0]], (RULESETS / "rows.txt").read_text())
    dropped = ("INPUT", "INPUT", "policy")
    ufw = (RULESETS / f"ufw.{words['WORD']}").read_text()
    return [
        *(_row(part) for part in re.split(r"^## (?=.*\n## outcome)", text, flags=re.MULTILINE)[1:]),
        Row("ufw, with 22 and 8080 allowed", ufw, Outcome.DROPPED, dropped, Outcome.DROPPED, is_iptables=True),
        Row("firewalld", (RULESETS / "firewalld.nft").read_text(), Outcome.PROXY, None, Outcome.PROXY),
    ]


def _row(part: str) -> Row:
    name, expected, rules = part.split("\n", 2)
    fields = dict(field.split("=") for field in expected.removeprefix("## ").split())
    outcome, by = Outcome(fields["outcome"]), fields.get("by")
    experience = Outcome(fields.get("experience", fields["outcome"]))
    return Row(name, rules, outcome, tuple(by.split("/")) if by else None, experience, fields["program"] == "iptables")
