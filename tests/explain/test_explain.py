"""`exclave explain` as it is typed, on machines where an agent runs, has died, or has never been."""

import json
import socket
import sys
import threading
from typing import Any

import dns.message
import dns.rrset
import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as some

from exclave.errors import ExclaveError, Fault
from exclave.explain import explain as explain_module
from exclave.explain.explain import Caller, Query, ask, parse_query
from exclave.kit.formats.host_port import join_host_port
from redirect.lab import CLUSTER4, PEER4, VM4, Lab, open_lab, open_rules
from redirect.policies import PLAIN
from support.fake_replies import fake_replies, json_lines
from support.faults import silent_name_service
from support.network_namespace import in_network_namespace

DEAD = "  note:   no agent runs on this machine; the rules in the kernel count"
POLICY = PLAIN
RULE = (
    "  rule:   ip daddr @captured_networks4 meta l4proto tcp counter packets {} bytes {} dnat ip to 169.254.77.1:4140 "
    'comment "the cluster\'s networks"'
)


async def typed(lab: Lab, *words: str, config: str = "/nowhere") -> list[str]:
    """The lines that the command prints inside of the machine."""
    done = await lab.vm.run(sys.executable, "-m", "exclave", "explain", *words, "--config", config)
    assert done.status == 0, done.errors
    return done.output.decode().splitlines()


async def test_the_answer_is_right_without_an_agent() -> None:
    async with open_lab() as lab:
        assert await typed(lab, f"{CLUSTER4}:80") == [
            "10.42.0.9:80 bypasses the proxy: this kernel has no rules of exclave.",
            DEAD,
        ]
        async with open_rules(lab, POLICY):
            assert await typed(lab, f"{CLUSTER4}:80") == [
                "10.42.0.9:80 goes to the proxy, instance a: the cluster's networks.",
                RULE.format(0, 0),
                "  set:    @captured_networks4 holds 10.42.0.0/16",
                DEAD,
            ]
            assert await typed(lab, "inbound", ":8080") == [
                "10.77.0.20:8080 from outside goes to the proxy, instance a: the group's ports and the proxy's own.",
                "  rule:   ip daddr 10.77.0.20 tcp dport @captured_ports counter packets 0 bytes 0 "
                "dnat ip to 169.254.77.1:4143 comment \"the group's ports and the proxy's own\"",
                "  set:    @captured_ports holds 8080",
                "  note:   the proxy then connects to 10.77.0.20:8080 like a local program; this also reaches ports "
                "that Docker publishes",
                DEAD,
                "[fd00:77::20]:8080 from outside bypasses the proxy: no rule captures it; "
                "captured are the ports 4143, 8080.",
                DEAD,
            ]
            assert (await typed(lab, f"{CLUSTER4}:80", "--user", "990"))[0].endswith("the proxy's own connections.")
            unreachable = "  note:   it would not leave this machine: Network is unreachable"
            assert unreachable in await typed(lab, "8.8.8.8:80")


async def test_a_missing_proxy_and_the_tables_of_others_are_notes() -> None:
    async with open_lab() as lab:
        await lab.load(POLICY)
        await lab.nft("add table ip theirs; add chain ip theirs c { type nat hook output priority -100; }")
        assert "  note:   nothing listens at 169.254.77.1:4140 now, so it would be refused" in await typed(
            lab, f"{CLUSTER4}:80"
        )
        assert "  note:   tables of others come after ours and may redirect it: ip theirs c" in await typed(
            lab, f"{PEER4}:80"
        )


async def test_a_firewall_of_the_host_that_keeps_a_caller_out_is_a_note() -> None:
    closed = "add table inet theirs; add chain inet theirs in { type filter hook input priority 0; policy drop; }"
    async with open_lab() as lab, open_rules(lab, POLICY):
        await lab.nft(f"{closed}; add rule inet theirs in ip saddr {PEER4} ct status dnat accept")
        note = (
            "  note:   the host's own firewall keeps it out: what pods send to port 8080 is dropped, by the policy of "
            "chain in of table inet theirs: there it is already redirected to the proxy's port 4143; "
            "to let it in: nft 'insert rule inet theirs in ct status dnat accept'"
        )
        assert note in await typed(lab, "inbound", f"{VM4}:8080", "--from", "10.77.0.99")
        assert note not in await typed(lab, "inbound", f"{VM4}:8080", "--from", PEER4)
        assert note not in await typed(lab, "inbound", f"{VM4}:8080")  # some callers get in


async def test_a_trace_makes_one_real_connection_and_leaves_nothing() -> None:
    async with open_lab() as lab, open_rules(lab, POLICY):
        before = await lab.nft("list", "tables")
        captured = await typed(lab, f"{CLUSTER4}:80", "--trace")
        assert captured[1] == RULE.format(0, 0)  # as it stood before our own connection
        assert captured[3] == "  kernel: agrees"
        assert captured[4].startswith("          exclave outbound: accept by rule ")
        assert (await typed(lab, f"{CLUSTER4}:80"))[1] == RULE.format(1, 60)
        for words in ([f"{CLUSTER4}:22"], [f"{CLUSTER4}:80", "--user", "990"], [f"{VM4}:8080"], [f"{PEER4}:80"]):
            assert "  kernel: agrees" in await typed(lab, *words, "--trace"), words
        assert "  kernel: no packet left: Network is unreachable" in await typed(lab, "8.8.8.8:80", "--trace")
        assert await lab.nft("list", "tables") == before


async def test_the_json_object_has_the_same_content() -> None:
    async with open_lab() as lab, open_rules(lab, POLICY):
        printed = json.loads("\n".join(await typed(lab, f"{CLUSTER4}:22", "--trace", "--json")))
        (one,) = printed["connections"]
        assert {key: one[key] for key in ("to", "outcome", "sentence", "instance", "target", "rule", "set")} == {
            "to": "10.42.0.9:22",
            "outcome": "passes",
            "sentence": "10.42.0.9:22 bypasses the proxy: SSH is never captured.",
            "instance": None,
            "target": None,
            "rule": 'tcp dport @ssh_ports accept comment "SSH is never captured"',
            "set": {"@ssh_ports": "22"},
        }
        assert (one["trace"]["agrees"], one["trace"]["problem"], len(one["notes"])) == (True, None, 1)


@pytest.mark.parametrize(
    ("redirect", "notes"),
    [
        ({"installed": True, "matches": True}, []),
        (
            {"installed": True, "matches": False},
            ["  note:   the agent wants other rules than these and is about to change them"],
        ),
    ],
    ids=["as wanted", "not as wanted"],
)
async def test_a_running_agent_adds_its_note(redirect: dict[str, Any], notes: list[str]) -> None:
    async with open_lab() as lab:
        runtime = lab.network.scratch / "run"
        runtime.mkdir()
        config = lab.network.scratch / "config.toml"
        config.write_text(f'[paths]\nruntime = "{runtime}"\n[proxy]\nbinary = 7\n')  # also where another key is wrong
        async with open_rules(lab, POLICY):
            with fake_replies(runtime, json_lines({"redirect": redirect})):
                assert (await typed(lab, f"{CLUSTER4}:22", config=str(config)))[3:] == notes


async def test_a_name_is_what_this_machine_resolves_it_to() -> None:
    async with open_lab() as lab, open_rules(lab, POLICY):
        lines = await typed(lab, "localhost:80")
        assert "  note:   localhost is 127.0.0.1, as this machine resolves it" in "\n".join(lines).replace("::1, ", "")


@in_network_namespace("169.254.77.3/32")
async def test_a_name_that_only_the_stub_resolves_is_queried_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stub:
        stub.bind(("169.254.77.3", 53))

        def serve() -> None:
            for _ in range(2):
                query, caller = stub.recvfrom(512)
                asked = dns.message.from_wire(query)
                response = dns.message.make_response(asked)
                if asked.question[0].rdtype == 1:
                    response.answer.append(dns.rrset.from_text(asked.question[0].name, 5, "IN", "A", "10.42.0.2"))
                stub.sendto(response.to_wire(), caller)

        server = threading.Thread(target=serve)
        server.start()
        assert explain_module._ask_stub("linkerd-policy.linkerd.svc.cluster.local") == ("10.42.0.2",)
        server.join()


@in_network_namespace()
async def test_where_no_stub_answers_there_is_no_address() -> None:
    assert explain_module._ask_stub("linkerd-policy.linkerd.svc.cluster.local") == ()


def test_arguments_are_parsed() -> None:
    assert ask(["10.42.0.9:80"], "nobody", None, None, None, True) == (
        Query("outbound", "10.42.0.9", 80),
        Caller("nobody"),
    )
    assert ask(["inbound", ":80"], None, None, "FD00:0::1", "eth0", False) == (
        Query("inbound", "", 80),
        Caller(source="fd00::1", interface="eth0"),
    )


NONSENSE: dict[str, tuple[tuple[Any, ...], str]] = {
    "no port": (
        (["10.42.0.9"], None, None, None, None, False),
        "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9'",
    ),
    "a caller of a call from here": (
        (["10.42.0.9:80"], None, None, "10.0.0.1", None, False),
        "--from and --interface are about connections from outside: exclave explain inbound …",
    ),
    "a caller that is no address": (
        (["inbound", ":80"], None, None, "me", None, False),
        "'me' does not appear to be an IPv4 or IPv6 address",
    ),
    "a user outside": (
        (["inbound", ":80"], "root", None, None, None, False),
        "--user, --group and --trace are about connections of programs here",
    ),
}


@pytest.mark.parametrize(("typed", "message"), NONSENSE.values(), ids=NONSENSE)
def test_wrong_arguments_are_refused(typed: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ExclaveError) as caught:
        ask(*typed)
    assert (caught.value.fault, caught.value.message) == (Fault.USAGE, message)
    assert caught.value.hint == "for instance: exclave explain 10.42.0.9:80; exclave explain inbound :8080"


ACCOUNTS = {
    "neither": (Caller(), (0, 0)),
    "a user by name": (Caller("root"), (0, 0)),
    "a user by number": (Caller("4242"), (4242, 0)),
    "a user with a group of its own": (Caller("nobody"), (65534, 65534)),
    "another group": (Caller("nobody", "root"), (65534, 0)),
    "another group by number": (Caller("nobody", "7"), (65534, 7)),
}


@pytest.mark.parametrize(("caller", "numbers"), ACCOUNTS.values(), ids=ACCOUNTS)
async def test_a_user_and_group_are_found_by_name_or_number(
    caller: Caller, numbers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.getegid", lambda: 0)
    assert await explain_module._account(caller) == numbers


@pytest.mark.parametrize("caller", [Caller("nobody-here"), Caller(group="nobody-here")], ids=["user", "group"])
async def test_a_user_or_group_that_does_not_exist_is_refused(caller: Caller) -> None:
    with pytest.raises(ExclaveError) as caught:
        await explain_module._account(caller)
    assert caught.value.message == "there is no user or group nobody-here on this machine"


@pytest.mark.parametrize("caller", [Caller("backup"), Caller(group="backup")], ids=["user", "group"])
async def test_a_silent_name_service_is_reported(
    caller: Caller, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_name_service(monkeypatch), pytest.raises(ExclaveError) as caught:
        await explain_module._account(caller)
    assert caught.value.message == "the name service did not answer within 10 s who backup is"
    assert caught.value.hint == "see why: getent passwd backup; getent group backup"


READ = {
    "10.42.0.9:80": Query("outbound", "10.42.0.9", 80),
    "outbound 10.42.0.9:80": Query("outbound", "10.42.0.9", 80),
    "[FD00:0::1]:443": Query("outbound", "fd00::1", 443),
    "web.shop.svc.cluster.local:80": Query("outbound", "web.shop.svc.cluster.local", 80, is_name=True),
    "web_1.shop.:80": Query("outbound", "web_1.shop.", 80, is_name=True),
    "localhost:65535": Query("outbound", "localhost", 65535, is_name=True),
    "inbound :8080": Query("inbound", "", 8080),
    "inbound 10.77.0.20:8080": Query("inbound", "10.77.0.20", 8080),
    "inbound [fd00:77::20]:8080": Query("inbound", "fd00:77::20", 8080),
}


@pytest.mark.parametrize("words", READ)
def test_a_destination_is_parsed(words: str) -> None:
    assert parse_query(words.split()) == READ[words]


REFUSED = {
    "": "one destination was expected, such as 10.42.0.9:80, found none",
    "inbound": "one destination was expected, such as 10.42.0.9:80, found none",
    "10.42.0.9:80 10.42.0.9:81": "one destination was expected, such as 10.42.0.9:80, found 10.42.0.9:80 10.42.0.9:81",
    "10.42.0.9": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9'",
    "10.42.0.9:http": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:http'",
    "10.42.0.9:65536": "a port from 1 to 65535 was expected after the last colon, found '10.42.0.9:65536'",
    ":80": "an address or a name was expected before the port, found ':80'",
    "fd00::1:80": "an IPv6 address in brackets was expected, such as [fd00::1]:80, found 'fd00::1:80'",
    "10.42.0:80": "an address or a name was expected before the port, found '10.42.0:80'",
    "[fe80::1%eth0]:80": "an address or a name was expected before the port, found '[fe80::1%eth0]:80'",
    "-x:80": "an address or a name was expected before the port, found '-x:80'",
    "inbound web:80": "an address of this machine was expected, found web",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=REFUSED)
def test_a_wrong_destination_is_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_query(words.split())
    assert str(caught.value) == message


@given(some.ip_addresses(), some.integers(1, 65535))
def test_a_destination_is_parsed_as_it_was_written(address: object, port: int) -> None:
    query = parse_query([join_host_port(str(address), port)])
    assert (query.host, query.port, str(query)) == (str(address), port, join_host_port(str(address), port))


@given(some.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        query = parse_query([text])
    except ValueError:
        return
    assert 1 <= query.port <= 65535
