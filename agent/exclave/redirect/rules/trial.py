"""The trial chain: the agent's connections to the trial address go through an instance that has no traffic yet. Pure.

It is a chain before the capturing one, so that a trial changes nothing else. It matches root's connections only, since
the proxy's own must reach the listener. The trial address is on the private link, so only this machine has it.
"""

from exclave.kit.formats.host_port import join_host_port
from exclave.link.layout import OUTBOUND_PORT, Family, Instance, instance_address, trial_address

TRIAL = "trial"
"""The chain's name."""

PRIORITY = -111
"""Just before the outbound chain."""


def trial_chain(instance: Instance, families: tuple[Family, ...]) -> list[str]:
    """The chain that sends root's connections to the trial address to an instance."""
    rules = []
    for family in families:
        word = "ip" if family == 4 else "ip6"
        target = join_host_port(instance_address(instance, family), OUTBOUND_PORT)
        match = f"meta skuid 0 {word} daddr {trial_address(family)} meta l4proto tcp"
        rules.append(f'    {match} dnat {word} to {target} comment "a swap tries this instance before it has traffic"')
    return [f"chain {TRIAL} {{", f"    type nat hook output priority {PRIORITY}; policy accept;", *rules, "}"]
