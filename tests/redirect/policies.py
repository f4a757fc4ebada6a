"""Policies that several tests use, each with its reason."""

from dataclasses import replace

from exclave.redirect.rules.policy import RedirectPolicy, Server

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
    "excluded-ports": (
        "However many ports a host excludes, a connection costs one look into a set; 4143 is none that it can exclude.",
        replace(
            PLAIN,
            inbound_ports=(8080, 8081, 9100),
            exempt_inbound_ports=((4000, 5000), 9100),
            exempt_outbound_ports=(25, 3306, (8000, 8100), 8101, (8050, 8060)),
        ),
    ),
    "excluded-networks": (
        "Callers in an excluded network reach the bare application, and calls to one go out bare; overlaps are merged.",
        replace(
            PLAIN,
            exempt_sources=("10.9.0.0/16", "10.9.9.0/24", "fd00:9::/48"),
            exempt_networks=("10.42.200.0/24", "10.42.201.0/24", "fd00:42:9::/48"),
        ),
    ),
    "excluded-users": (
        "Programs of these users and groups pass by; a group counts if a program runs as it, not if its user is in it.",
        replace(PLAIN, exempt_uids=(1000, 0), exempt_gids=(4,)),
    ),
    "excluded-interfaces": (
        "Whatever comes or leaves by such an interface is left alone: a network for backups, or another mesh's tunnel.",
        replace(PLAIN, exempt_inbound_interfaces=("eth1", "wg0"), exempt_outbound_interfaces=("wg0",)),
    ),
    "ssh-elsewhere": (
        "A port where an SSH server listens is no port of the group, even if the group names it: nobody is locked out.",
        replace(PLAIN, inbound_ports=(22, 2222, 8080), ssh_ports=(2222,)),
    ),
    "ssh-session": (
        "Whoever started the agent over SSH keeps the way back: the port, and the address they came from.",
        replace(PLAIN, ssh_ports=(2022,), ssh_peers=("10.42.0.77",)),
    ),
    "several-ports": (
        "Ports that follow each other are one range; opaque ones are no different here, their pods just call 4143.",
        replace(PLAIN, inbound_ports=(5432, 8080, 8081, 8082, 9443)),
    ),
    "vip": (
        "A VIP that may stand here is captured beside the own address: what comes to either is the group's.",
        replace(PLAIN, addresses=("10.77.0.20", "10.77.0.100")),
    ),
    "behind-nat": (
        "Pods call the address outside of the NAT, and packets arrive for the one inside: both name this machine.",
        replace(PLAIN, addresses=("203.0.113.7", "10.77.0.20")),
    ),
    "closed-elsewhere": (
        "The group's policy refuses plain clients: its ports are closed at other addresses, with the same exceptions.",
        replace(PLAIN, closes=True, exempt_inbound_ports=(9100,), exempt_inbound_interfaces=("lan0",)),
    ),
    "containers": (
        "What containers behind docker0 send to the cluster is captured; to this machine and to each other it is not.",
        replace(PLAIN, capture_interfaces=("docker0",), exempt_outbound_ports=(3306,)),
    ),
    "containers-with-all": (
        "Several bridges, both families, everything captured: the containers' chain ends as local programs' does.",
        replace(
            PLAIN,
            networks=None,
            families=(4, 6),
            capture_interfaces=("br-shop", "docker0"),
            exempt_outbound_interfaces=("wg0",),
        ),
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
    "outbound-only": (
        "Without ports of its own a member still takes 4143, where opaque traffic of any listed port arrives.",
        replace(PLAIN, inbound_ports=()),
    ),
    "capture-all": (
        "Everything that is TCP goes out through the proxy, except what never does: metadata, loopback, SSH, the API.",
        replace(PLAIN, networks=None, families=(4, 6)),
    ),
    "unconfirmed": (
        "Not confirmed yet: every chain that captures asks a set whose one element the kernel forgets in time.",
        replace(PLAIN, armed_until=60.0, capture_interfaces=("docker0",)),
    ),
    "inbound-only": (
        "The group captures nothing outbound: there is no chain in the output hook, and nothing to pay for.",
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
    "trial": (
        "A swap tries the other instance first: root's connections to the trial address go through it, no others do.",
        replace(PLAIN, trial="b", families=(4, 6)),
    ),
    "both-open": (
        "Nothing is captured, and the private link is still nobody's but this machine's: no foreign packet reaches it.",
        replace(PLAIN, inbound=False, outbound=False),
    ),
}
"""Golden rulesets: name, the sentence that opens the file, policy."""
