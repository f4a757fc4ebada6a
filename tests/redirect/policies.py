"""Policies that several tests use, each with the reason why it is worth a look."""

from dataclasses import replace

from exclave.redirect.policy import RedirectPolicy, Server

PROXY = 990
"""The proxy's user id."""

PLAIN = RedirectPolicy(
    instance="a",
    addresses=("10.77.0.20",),
    inbound_ports=(8080,),
    networks=("10.42.0.0/16",),
    proxy_uid=PROXY,
    servers=(Server("10.77.0.1", 6443),),
    families=(4,),
)

GOLDEN = {
    "plain": (
        "One port in, one network out, through instance a; SSH, the API server and everything local pass by.",
        PLAIN,
    ),
    "instance-b": (
        "The same for instance b: a swap replaces one by the other in one transaction, and only addresses differ.",
        replace(PLAIN, instance="b"),
    ),
    "excluded": (
        "What the host excludes stands in sets, so a connection costs the same however many there are.",
        replace(
            PLAIN,
            inbound_ports=(8080, 8081, 9100),
            exempt_inbound_ports=(9100,),
            exempt_outbound_ports=(25, 3306),
            exempt_networks=("10.42.200.0/24", "fd00:42:9::/48"),
            exempt_uids=(0, 1000),
        ),
    ),
    "ssh-elsewhere": (
        "A port where sshd listens is no port of the group, even if the group names it: nobody is locked out.",
        replace(PLAIN, inbound_ports=(22, 2222, 8080), exempt_inbound_ports=(2222,), exempt_outbound_ports=(2222,)),
    ),
    "two-families": (
        "Both families go out through the proxy where it listens on both; in comes the family of the mesh address.",
        replace(PLAIN, networks=("10.0.0.0/8", "100.64.0.0/10", "fd00::/8"), families=(4, 6)),
    ),
    "without-ipv6": (
        "A proxy that listens on IPv4 only is never handed IPv6, though the cluster's networks name it.",
        replace(PLAIN, networks=("10.0.0.0/8", "fd00::/8")),
    ),
    "ipv6-member": (
        "A member of IPv6 is reached and goes out by IPv6; the foreign-packet drop covers both families in any case.",
        replace(
            PLAIN,
            addresses=("fd00:77::20",),
            networks=("fd00:42::/32",),
            servers=(Server("fd00:77::1", 6443),),
            families=(4, 6),
        ),
    ),
    "opaque": (
        "Without ports of its own a member still takes 4143, where opaque traffic of any listed port arrives.",
        replace(PLAIN, inbound_ports=()),
    ),
    "capture-all": (
        "Everything that is TCP goes out through the proxy, except what never does: metadata, loopback, SSH, the API.",
        replace(PLAIN, networks=None, families=(4, 6)),
    ),
    "capture-none": (
        "Nothing is captured outbound: there is no chain in the output hook, and nothing to pay for.",
        replace(PLAIN, networks=()),
    ),
    "outbound-open": (
        "The proxy is dead: programs reach the network without it, while pods still do not reach the bare application.",
        replace(PLAIN, outbound=False),
    ),
    "inbound-open": (
        "The proxy is dead and the group prefers to be reached bare; what goes out waits for the proxy.",
        replace(PLAIN, inbound=False),
    ),
    "both-open": (
        "Nothing is captured, and the private link is still nobody's but this machine's: no foreign packet reaches it.",
        replace(PLAIN, inbound=False, outbound=False),
    ),
}
"""Rulesets kept as files: name, the sentence that opens the file, policy."""
