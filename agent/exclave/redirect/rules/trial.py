"""A trial's rules: connections of the agent itself to the trial address go out through an instance that has no traffic.

Pure. Rules: a chain of its own, before the one that captures, so that nothing else is different while a trial is made;
root's connections alone, since the proxy's own must arrive; the trial address is nobody's but this machine's.
"""

from exclave.kit.formats.host_port import join_host_port
from exclave.link.layout import OUTBOUND_PORT, Family, Instance, instance_address, trial_address

TRIAL = "trial"
"""The chain's name."""

PRIORITY = -111
"""Just before the chain of what is captured outbound."""


def trial_chain(instance: Instance, families: tuple[Family, ...]) -> list[str]:
    """The chain that sends root's connections to the trial address to an instance."""
    rules = []
    for family in families:
        word = "ip" if family == 4 else "ip6"
        target = join_host_port(instance_address(instance, family), OUTBOUND_PORT)
        match = f"meta skuid 0 {word} daddr {trial_address(family)} meta l4proto tcp"
        rules.append(f'    {match} dnat {word} to {target} comment "a swap tries this instance before it has traffic"')
    return [f"chain {TRIAL} {{", f"    type nat hook output priority {PRIORITY}; policy accept;", *rules, "}"]
