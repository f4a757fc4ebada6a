"""A machine with a life of its own: disks to which whatever is written shows, and a network that somebody has set up.

exclave's own three folders are there from the start, as a package or a unit makes them.
"""

import sys
from pathlib import Path

import exclave
from exclave_sandbox.stage.namespaces import Machine

LAYERS = "/mnt"

COVERED = ("/etc", "/var", "/root", "/mnt", "/run", "/tmp")
"""Where this machine has disks of its own."""

DISKS = """
set -eu
number=3
for folder; do eval "exec $number<\\"\\$folder\\""; number=$((number + 1)); done
mount -t tmpfs -o mode=755 layers /mnt
for folder in etc var root; do
    mkdir -p /mnt/$folder /mnt/work-$folder
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=/mnt/$folder,workdir=/mnt/work-$folder /$folder
done
mkdir -p /mnt/run /mnt/tmp
chmod 1777 /mnt/tmp
mount --rbind /mnt/tmp /tmp
mount --bind /mnt/run /run
number=3
for folder; do
    mkdir -p "$folder"
    mount --no-canonicalize --rbind "/proc/self/fd/$number" "$folder"
    number=$((number + 1))
done
mkdir -m 755 /etc/exclave /run/exclave
mkdir -m 700 /var/lib/exclave
"""
"""Its arguments are folders that stay what they are. An open descriptor still finds a folder that a mount covers."""

RESOLVER = """\
# set up by hand, by somebody who knew why
search example.test   # ours
nameserver 192.0.2.53
options timeout:1
"""

RULES = """
table inet firewall {
    set blocked {
        type ipv4_addr
        flags interval
        elements = { 192.0.2.0/24, 198.51.100.7 }
    }
    map doors {
        type inet_service : verdict
        elements = { 8080 : accept }
    }
    counter web {
        comment "what reaches the application"
    }
    quota month {
        500 mbytes
    }
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
        ip saddr @blocked counter drop comment "seen in the logs"
        tcp dport 8080 counter name "web"
        tcp dport vmap @doors
    }
    chain first {
        type filter hook prerouting priority -300; policy accept;
        counter
    }
    chain beside_prerouting {
        type nat hook prerouting priority -110; policy accept;
        tcp dport 8099 redirect to :8080
    }
    chain beside_output {
        type nat hook output priority -110; policy accept;
        tcp dport 8099 counter
    }
}
table ip6 masquerading {
    chain out {
        type nat hook postrouting priority srcnat; policy accept;
        ip6 saddr fd99::/64 masquerade
    }
}
table netdev early {
    chain ingress {
        type filter hook ingress device "own0" priority 0; policy accept;
        counter
    }
}
"""

CONTAINERS = """
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""
"""What Docker makes, through iptables of either kind."""

NETWORK = """
set -eu
ip link add own0 type dummy 2>/dev/null || ip link add own0 type bridge
ip link add docker0 type bridge
ip link set own0 address 02:00:00:00:00:77 up
ip address add 10.99.0.1/24 dev own0
ip address add fd99::1/64 dev own0 nodad
ip address add 172.17.0.1/16 dev docker0
ip neighbour add 10.99.0.9 lladdr 02:00:00:00:00:99 nud permanent dev own0
ip neighbour add fd99::9 lladdr 02:00:00:00:00:99 nud permanent dev own0
ip route add blackhole 192.0.2.0/24
ip route add 203.0.113.0/24 dev own0 table 177
ip -6 route add unreachable fd98::/64
ip -6 route add fd97::/64 dev own0 table 177
for family in -4 -6; do ip $family rule add fwmark 0x77 lookup 177 priority 1077; done
while read -r name value; do echo "$value" >"/proc/sys/net/$name"; done <<END
ipv4/ip_forward 1
ipv4/conf/all/rp_filter 2
ipv4/conf/default/rp_filter 1
ipv4/conf/default/arp_ignore 1
ipv4/tcp_keepalive_time 4321
ipv6/conf/default/use_tempaddr 2
netfilter/nf_conntrack_tcp_timeout_established 7200
netfilter/nf_conntrack_tcp_be_liberal 1
END
"""


def covered(*folders: Path) -> list[Path]:
    """Those of these folders, and of the folders of the programs that run here, which the new disks would cover."""
    programs = (Path(sys.prefix), Path(sys.base_prefix), Path(exclave.__file__).parents[1], Path(__file__).parents[1])
    found = {folder.resolve() for folder in (*folders, *programs)}
    found = {folder for folder in found if any(folder.is_relative_to(disk) for disk in COVERED)}
    return sorted(folder for folder in found if not found.intersection(folder.parents))


async def furnish(machine: Machine, scratch: Path) -> None:
    """Make the machine somebody's."""

    async def do(*command: str, stdin: str = "") -> None:
        done = await machine.run(*command, stdin=stdin.encode())
        assert done.status == 0, (command, done.errors)

    await do("sh", "-c", DISKS, "sh", *map(str, covered(scratch)))
    await do("sh", "-c", "rm -f /etc/resolv.conf && cat >/etc/resolv.conf", stdin=RESOLVER)
    await do("sh", "-c", NETWORK)
    await do("nft", "-f", "-", stdin=RULES)
    for kind in ("nft", "legacy"):
        await do(f"iptables-{kind}-restore", "--noflush", stdin=CONTAINERS)
    await do("ip6tables-legacy", "-t", "filter", "-N", "OURS")
