"""Hosts that cannot be members, made in network namespaces: each is refused with one message and left as it was."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exclave.api.join_token import encode_token
from proxy.lab import open_folder, write_script
from support.mesh import unreachable_token

TOP = Path(__file__).resolve().parents[2]

CHECK = shlex.join([sys.executable, str(Path(__file__).with_name("print_check.py"))])

SNAPSHOT = (
    "nft -a list ruleset; ip -details link | sed 's/_timer *[0-9.]*//g'; ip address; ip route show table all; ip rule; "
    "iptables-legacy-save 2>&1 | grep -v ^#; cat /proc/net/ip_tables_names; "
    "find /proc/sys/net -type f -perm -400 ! -name nf_conntrack_count | sort | xargs grep -rHs ."
)

LOADED = "echo 'table inet t { chain c { ct state new accept; }; }' | /usr/sbin/nft --check -f - || true"
"""Has the kernel load nf_conntrack: its settings are in the snapshots, and the check would load it."""

WITHOUT_NET_ADMIN = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin --"

LISTENER = (
    "import os, socket, sys; kind = socket.SOCK_DGRAM if sys.argv[1] == 'udp' else socket.SOCK_STREAM; "
    "s = socket.socket(socket.AF_INET6 if ':' in sys.argv[2] else socket.AF_INET, kind); "
    "s.bind((sys.argv[2], int(sys.argv[3]))); kind == socket.SOCK_STREAM and s.listen(); "
    "print(flush=True); os.close(1); sys.stdin.read()"
)
"""Listens until its standard input ends, after a line on its standard output: udp|tcp ADDRESS PORT."""


@dataclass
class Host:
    """A network of its own, with folders: `run` runs a script there, in a new namespace each time."""

    folder: Path

    def run(self, script: str, *, unshared: str = "--net") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.folder / "bin"), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        environment = {"PYTHONPATH": os.pathsep.join([str(TOP / "agent"), str(TOP / "tests")]), "PATH": path}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        words = ["unshare", *unshared.split(), "sh", "-c", f"ip link set lo up\n{script}"]
        return subprocess.run(words, env=environment, capture_output=True, text=True, cwd=self.folder, timeout=60)

    def check(self, before: str = "", prefix: str = "", **options: Any) -> dict[str, Any]:
        """What the check finds after a script. Fails if it changes anything."""
        done = self.run(
            f"set -e\n{before}\n{LOADED}\n{{ {SNAPSHOT}\n}} >before || true\n{prefix} {CHECK}\n"
            f"{{ {SNAPSHOT}\n}} >after || true\ncmp before after >&2",
            **options,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def program(self, name: str, script: str) -> None:
        (self.folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / "bin" / name).chmod(0o755)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "bin").mkdir()
    yield Host(tmp_path)


def listening(kind: str, address: str, port: int) -> str:
    """A script that has a program listen until the namespace's script ends."""
    program = shlex.join([sys.executable, "-c", LISTENER, kind, address, str(port)])
    return f"mkfifo held ready; {program} <held >ready & exec 9>held; read -r line <ready"


# Hosts that work.


def test_a_host_without_anything_special_is_accepted_and_not_changed(host: Host) -> None:
    assert host.check() == {"warnings": []}


WORKING = {
    "without IPv6": "for name in all default; do echo 1 >/proc/sys/net/ipv6/conf/$name/disable_ipv6; done",
    "with /sys and /proc/sys read-only": "mount -t sysfs -o ro sysfs /sys; mount -o bind,ro /proc/sys /proc/sys",
    "with a proxy's port on an address of its own": listening("tcp", "127.0.0.1", 4143),
    "with a name server on an address of its own": listening("udp", "127.0.0.1", 53),
    "with Docker's rules": "iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -j DOCKER",
    "with firewalld's table": "nft add table inet firewalld; nft add chain inet firewalld nat_PREROUTING",
}


@pytest.mark.parametrize("name", WORKING)
def test_a_host_that_differs_but_works_is_accepted(name: str, host: Host) -> None:
    assert host.check(WORKING[name], unshared="--net --mount") == {"warnings": []}


# Hosts that cannot work.

IN_A_CONTAINER = (
    "in a container, give it a network of its own and NET_ADMIN; or install exclave on the virtual machine itself"
)


def test_without_net_admin_it_is_30(host: Host) -> None:
    assert host.check(prefix=WITHOUT_NET_ADMIN) == {
        "code": 30,
        "message": "this machine's network cannot be changed: the capability NET_ADMIN is missing",
        "hint": IN_A_CONTAINER,
    }


def test_in_a_container_with_the_hosts_network_it_is_30(host: Host) -> None:
    """Root of a user namespace has NET_ADMIN there, but the network belongs to another one."""
    found = host.check(prefix="unshare --user --map-root-user")
    assert (found["code"], found["hint"]) == (30, IN_A_CONTAINER)


@pytest.mark.parametrize("program", ["nft", "ip"])
def test_a_missing_program_is_31(program: str, host: Host) -> None:
    for name in ("nft", "ip"):
        if name != program:
            (host.folder / "bin" / name).symlink_to(f"/usr/sbin/{name}")
    found = host.check(prefix=f"env PATH={host.folder}/bin")
    package = {"nft": "nftables", "ip": "iproute2"}[program]
    assert found == {
        "code": 31,
        "message": f"the program {program} cannot be run: No such file or directory",
        "hint": f"install it: apt install {package}",
    }


def test_an_ip_of_busybox_is_31(host: Host) -> None:
    host.program("ip", "[ \"$1\" != -json ] || { echo \"ip: invalid argument '-json' to 'ip'\" >&2; exit 1; }")
    assert host.check() == {
        "code": 31,
        "message": "ip lists no addresses as JSON: ip: invalid argument '-json' to 'ip'",
        "hint": "install iproute2: apt install iproute2",
    }


def test_an_nft_without_json_is_31(host: Host) -> None:
    host.program(
        "nft", '[ "$1" != -j ] || { echo "JSON support not compiled-in" >&2; exit 1; }; exec /usr/sbin/nft "$@"'
    )
    assert host.check() == {
        "code": 31,
        "message": "nft lists no rules as JSON: JSON support not compiled-in",
        "hint": "exclave needs nftables 0.9.3 or newer, with JSON",
    }


def test_a_kernel_without_nat_is_31(host: Host) -> None:
    """Its answer to the rules, as nft prints it; a kernel without NAT is not at hand."""
    refusal = "/dev/stdin:3:11-17: Error: Could not process rule: No such file or directory"
    host.program("nft", f'[ "$1" != --check ] || {{ echo "{refusal}" >&2; exit 1; }}; exec /usr/sbin/nft "$@"')
    found = host.check()
    kernel = platform.release()
    assert (found["code"], found["message"]) == (31, f"nft and the kernel {kernel} do not accept the rules: {refusal}")
    assert "Linux 5.3 or later with nf_tables, NAT and conntrack" in found["hint"]


def test_a_link_of_our_name_that_others_made_is_34(host: Host) -> None:
    found = host.check("ip link add exclave0 type bridge")
    assert (found["code"], found["message"]) == (34, "a link exclave0 exists that exclave did not make")


@pytest.mark.parametrize(
    ("kind", "address", "port"),
    [
        ("tcp", "0.0.0.0", 4140),
        ("tcp", "0.0.0.0", 4143),
        ("tcp", "::", 4191),
        ("tcp", "::", 53),
        ("udp", "0.0.0.0", 53),
    ],
)
def test_a_port_that_others_have_on_every_address_is_34(kind: str, address: str, port: int, host: Host) -> None:
    found = host.check(listening(kind, address, port))
    assert found["code"] == 34
    assert found["message"].startswith(f"{kind.upper()} port {port} is taken by python")
    assert found["message"].endswith("which listens on every address")
    assert found["hint"].endswith(f"ss -ln{kind[0]}p 'sport = :{port}'")


OTHER_MESHES = {
    "Linkerd": (
        "iptables-nft -t nat -N PROXY_INIT_REDIRECT\n"
        "iptables-nft -t nat -A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143\n"
        "iptables-nft -t nat -A PREROUTING -m comment --comment proxy-init -j PROXY_INIT_REDIRECT"
    ),
    "Istio": (
        "iptables-legacy -t nat -N ISTIO_OUTPUT\n"
        "iptables-legacy -t nat -A ISTIO_OUTPUT -p tcp -j REDIRECT --to-port 15001\n"
        "iptables-legacy -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT"
    ),
    "Consul": (
        "ip6tables-nft -t nat -N CONSUL_PROXY_INBOUND\n"
        "ip6tables-nft -t nat -A PREROUTING -p tcp -j CONSUL_PROXY_INBOUND"
    ),
    "Kuma": (
        "ip6tables-legacy -t nat -N KUMA_MESH_OUTBOUND\nip6tables-legacy -t nat -A OUTPUT -p tcp -j KUMA_MESH_OUTBOUND"
    ),
}


@pytest.mark.parametrize("name", OTHER_MESHES)
def test_rules_of_another_mesh_are_37_until_the_named_command_was_run(name: str, host: Host) -> None:
    found = host.check(OTHER_MESHES[name])
    assert found["code"] == 37
    assert found["message"].startswith(f"rules of {name} redirect this machine's traffic: chain ")
    removal = found["hint"].partition("remove its rules: ")[2]
    assert host.check(f"{OTHER_MESHES[name]}\n{removal}") == {"warnings": []}


@pytest.mark.parametrize("family", ["iptables", "ip6tables"])
def test_a_legacy_table_that_cannot_be_read_is_a_warning(family: str, host: Host) -> None:
    """As under exclave.service, which has no NET_RAW."""
    rules = OTHER_MESHES["Istio"].replace("iptables", family)
    without_net_raw = "setpriv --bounding-set=-net_raw --inh-caps=-net_raw --"
    (warning,) = host.check(rules, without_net_raw)["warnings"]
    assert warning.startswith(f"{family}-legacy-save cannot list the table nat (")
    assert warning.endswith(f"), which may have rules of another mesh: as root, run {family}-legacy-save -t nat")


# What is no reason to refuse.


def test_chains_of_another_mesh_that_no_hook_leads_to_are_a_warning(host: Host) -> None:
    assert host.check("iptables-nft -t nat -N ISTIO_INBOUND") == {
        "warnings": ["Istio left an unused chain ISTIO_INBOUND in ip nat"]
    }


FIREWALLS = {
    "nft 'table inet t { chain in { type filter hook input priority 0; policy drop; tcp dport 8080 accept; }; }'": (
        "the policy of chain in of table inet t",
        "nft 'insert rule inet t in ct status dnat accept'",
    ),
    "iptables-nft -P INPUT DROP; ip6tables-nft -P INPUT DROP; iptables-nft -A INPUT -p tcp --dport 8080 -j ACCEPT": (
        "the policy of chain INPUT of table ip filter",
        "iptables -t filter -I INPUT -m conntrack --ctstate DNAT -j ACCEPT",
    ),
}  # fmt: skip


@pytest.mark.parametrize("script", FIREWALLS)
def test_a_firewall_that_keeps_pods_out_is_a_warning_until_the_named_command_was_run(script: str, host: Host) -> None:
    what, command = FIREWALLS[script]
    network = "ip link add eth0 type bridge; ip address add 10.77.0.20/24 dev eth0; ip link set eth0 up"
    assert host.check(f"{network}\n{script}")["warnings"] == [
        f"what pods send to port 4143 is dropped, by {what}: there it is already redirected to the proxy's port 4143; "
        f"to let it in: {command}"
    ]
    assert host.check(f"{network}\n{script}\n{command}") == {"warnings": []}


def test_on_a_running_member_occupied_ports_and_other_meshes_are_warnings(host: Host) -> None:
    """Its agent starts again: to refuse would end what works."""
    ours = "nft add table inet exclave; nft add chain inet exclave kept"
    found = host.check(f"{ours}\n{OTHER_MESHES['Linkerd']}\n{listening('tcp', '0.0.0.0', 4143)}")
    assert [warning.partition(":")[0] for warning in found["warnings"]][:1] == [
        "rules of Linkerd redirect this machine's traffic"
    ]
    assert found["warnings"][1].startswith("TCP port 4143 is taken by ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spire-agent", "a SPIRE agent runs here; exclave does not use it"),
        ("linkerd2-proxy", "another linkerd2-proxy runs here"),
    ],
)
def test_programs_of_other_meshes_are_warnings(name: str, text: str, host: Host) -> None:
    script = f"cp /bin/cat {name}; mkfifo held; ./{name} <held & exec 9>held; n=$!"
    (warning,) = host.check(script)["warnings"]
    assert warning.startswith(f"{text} (process ")


# The commands.


def configured(host: Host, *lines: str) -> str:
    """The options of a command for this host, with a token in the file `token`."""
    (host.folder / "token").write_text(encode_token(unreachable_token()))
    paths = f'[paths]\nstate = "{host.folder}/state"\nruntime = "{host.folder}/run"\n[member]\naddress = "10.77.0.20"\n'
    (host.folder / "config.toml").write_text(paths + "\n".join(lines))
    return f"--config {host.folder}/config.toml"


EXCLAVE = f"{sys.executable} -m exclave"
COMMANDS = {"run": "run", "join": "join --token-file token"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_such_a_host_ends_with_one_message_and_begins_nothing(command: str, host: Host) -> None:
    options = configured(host)
    done = host.run(f"{WITHOUT_NET_ADMIN} {EXCLAVE} {COMMANDS[command]} {options}")
    assert (done.returncode, done.stderr.splitlines()) == (
        30,
        [
            "exclave: this machine's network cannot be changed: the capability NET_ADMIN is missing",
            f"  to do: {IN_A_CONTAINER}",
        ],
    )
    assert [path.name for folder in ("state", "run") for path in (host.folder / folder).glob("*")] == []


def test_the_check_before_a_join_exits_by_what_it_finds(host: Host) -> None:
    network = "ip link add eth0 type bridge; ip address add 10.77.0.20/24 dev eth0; ip link set eth0 up"
    closed = "nft 'table inet t { chain in { type filter hook input priority 0; policy drop; }; }'"
    with open_folder() as folder:
        greeting = "INFO linkerd2_proxy: release 2.331.0 (abc1234) by linkerd"
        proxy = write_script(folder / "proxy", f"echo '{greeting}'; exit 64")
        options = configured(host, "[proxy]", 'user = "nobody"', f'binary = "{proxy}"')
        command = f"{EXCLAVE} check {options}"
        done = host.run(f"{network}\n{command}")
        assert (done.returncode, done.stdout, done.stderr) == (0, "this machine can be a member\n", "")
        done = host.run(f"{network}\n{closed}\n{command}")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (3, "pods could not get in")
        assert done.stdout.startswith("warning: what pods send to port 4143 is dropped, by the policy of chain in of")
        printed = json.loads(host.run(f"{network}\n{closed}\n{command} --json").stdout)
        assert (len(printed["warnings"]), printed["reachable"]) == (1, False)
        assert host.run(f"{WITHOUT_NET_ADMIN} {command}").returncode == 30
        proxy.unlink()
        assert host.run(command).returncode == 32


def test_an_agent_of_a_machine_that_is_no_member_runs_beside_a_name_server(host: Host) -> None:
    """Many machines have one on every address. The agent needs the port only after a join, which checks it again."""
    options = configured(host)
    script = (
        f"{listening('udp', '0.0.0.0', 53)}\n{EXCLAVE} run {options} & agent=$!\n"
        "until [ -S run/control.sock ]; do kill -0 $agent || exit 9; done\n"
        f"kill -TERM $agent; wait $agent; echo stopped $?\n{EXCLAVE} join --token-file token {options}"
    )
    done = host.run(script)
    assert done.stdout.splitlines()[-1] == "stopped 0"
    assert "WARNING exclave.host_check: UDP port 53 is taken by " in done.stderr
    assert done.returncode == 34
    assert "exclave: UDP port 53 is taken by " in done.stderr


NO_PROXY = {
    "without its user": ('[proxy]\nuser = "nobody-here"', "there is no user nobody-here for the proxy to run as"),
    "without its file": ('[proxy]\nuser = "nobody"\nbinary = "/nowhere"', "there is no proxy at /nowhere"),
    "with another program": (
        '[proxy]\nuser = "nobody"\nbinary = "/bin/true"',
        "/bin/true, run by nobody without a configuration, ended with status 0: it printed nothing",
    ),
}


@pytest.mark.parametrize("name", NO_PROXY)
def test_a_join_without_a_proxy_uses_up_nothing_of_the_token(name: str, host: Host) -> None:
    lines, message = NO_PROXY[name]
    done = host.run(f"{EXCLAVE} join --token-file token {configured(host, lines)}")
    assert (done.returncode, done.stderr.splitlines()[0]) == (32, f"exclave: {message}")
    assert list((host.folder / "state").iterdir()) == []


def test_a_token_that_cannot_be_used_is_reported_before_the_host(host: Host) -> None:
    options = configured(host)
    (host.folder / "token").write_text("exclave1_x")
    done = host.run(f"{WITHOUT_NET_ADMIN} {EXCLAVE} join --token-file token {options}")
    assert done.returncode == 10
