# A network that an administrator has set up.
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
