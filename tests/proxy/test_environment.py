"""The proxy's environment as golden files, so that reviewers read it.

A golden file is the environment, one variable a line, line breaks in values as `\\n`. To take on a change that was
reviewed: `EXCLAVE_GOLDEN=write pytest tests/proxy/test_environment.py`, then read the difference.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from exclave.api.group import Port
from exclave.api.settings import Workers
from exclave.link.layout import Family, Instance
from exclave.proxy.environment import environment_digest, proxy_environment
from exclave_sandbox.standin.settings import read_environment
from support.mesh import ADDRESS, make_settings

FILES = Path(__file__).with_name("golden")
SOCKET = Path("/run/exclave/workload.sock")


@dataclass(frozen=True)
class Case:
    """Who asks for an environment, and why it is worth reading."""

    why: str
    group: dict[str, Any] = field(default_factory=dict)
    addresses: tuple[str, ...] = (ADDRESS,)
    instance: Instance = "a"
    families: tuple[Family, ...] = (4,)
    log: str = "info"
    drain: float = 30.0

    def environment(self) -> dict[str, str]:
        return proxy_environment(
            make_settings(**self.group),
            "web-k7q2x-1",
            self.addresses,
            self.instance,
            SOCKET,
            self.log,
            drain=self.drain,
            families=self.families,
        )


GOLDEN = {
    "plain": Case("one port, IPv4 alone, the mesh's own policy"),
    "instance-b": Case("the other place on the private link, both families", instance="b", families=(4, 6)),
    "ipv6-member": Case("an IPv6 member is reached and listens on IPv6", addresses=("fd00:77::20",), families=(4, 6)),
    "vip": Case(
        "a VIP, or the address inside of a NAT, is accepted as the own one is", addresses=("10.77.0.20", "10.77.0.100")
    ),
    "opaque": Case(
        "the group's opaque ports join the mesh's, each once",
        group={"ports": (Port("pg", 5432, opaque=True), Port("mail", 25, opaque=True), Port("http", 8080))},
    ),
    "own-policy": Case("a group's policy is stronger than the mesh's", group={"inbound_policy": "deny"}),
    "debugged": Case("a log filter never shows headers, and a drain is milliseconds", log="debug", drain=2.5),
}


def _text(case: Case) -> str:
    lines = [f"{name}={value}".replace("\n", "\\n") for name, value in case.environment().items()]
    return "\n".join([f"# {case.why}", *lines, ""])


@pytest.mark.parametrize("name", GOLDEN)
def test_settings_give_the_reviewed_environment(name: str) -> None:
    path = FILES / f"{name}.env"
    if os.environ.get("EXCLAVE_GOLDEN") == "write":
        path.write_text(_text(GOLDEN[name]))
    assert path.read_text() == _text(GOLDEN[name])


def test_every_golden_file_is_of_a_case() -> None:
    assert {path.stem for path in FILES.iterdir()} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_variable_is_one_of_the_proxy_and_has_a_value(name: str) -> None:
    environment = GOLDEN[name].environment()
    assert all(variable.startswith("LINKERD2_PROXY_") and value for variable, value in environment.items())


@pytest.mark.parametrize("name", GOLDEN)
def test_the_stand_in_reads_the_environment_as_it_was_meant(name: str) -> None:
    case = GOLDEN[name]
    read = read_environment(case.environment())
    assert read.inbound_ips == set(case.addresses)
    assert (read.inbound[1], {port for _, port in read.outbound}, read.admin[1]) == (4143, {4140}, 4191)
    assert len(read.outbound) == len(case.families)
    assert read.workload_api is not None
    assert Path(read.workload_api) == SOCKET
    assert (read.remember, read.grace) == (3600.0, case.drain)


def test_the_digest_names_the_content_whatever_the_order() -> None:
    environment = GOLDEN["plain"].environment()
    backwards = dict(reversed(environment.items()))
    assert environment_digest(backwards) == environment_digest(environment)
    digests = {environment_digest(case.environment()) for case in GOLDEN.values()}
    assert len(digests) == len(GOLDEN)


def test_another_anchor_is_another_environment() -> None:
    case = GOLDEN["plain"]
    settings = make_settings()
    environments = [
        proxy_environment(chosen, "web-k7q2x-1", case.addresses, "a", SOCKET, "info", drain=30.0, families=(4,))
        for chosen in (settings, replace(settings, anchors=settings.anchors * 2))
    ]
    assert environment_digest(environments[0]) != environment_digest(environments[1])
    assert environments[1]["LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"] == settings.anchors * 2


def test_the_number_of_threads_is_written_as_linkerds_chart_writes_a_fixed_one() -> None:
    found = proxy_environment(
        make_settings(), "web-k7q2x-1", (ADDRESS,), "a", SOCKET, "info", drain=30.0, families=(4,), cores=4
    )
    assert (found["LINKERD2_PROXY_CORES"], found["LINKERD2_PROXY_CORES_MIN"]) == ("4", "4")


@pytest.mark.parametrize(
    ("workers", "group", "cores", "wanted"),
    [
        (Workers(), None, None, {"CORES": "1", "CORES_MIN": "1"}),
        (
            Workers(2, 8, 0.25), None, None,
            {"CORES": "2", "CORES_MIN": "2", "CORES_MAX": "8", "CORES_MAX_RATIO": "0.25"},
        ),
        (Workers(2, 8, 0.25), 5, None, {"CORES": "5", "CORES_MIN": "5"}),
        (Workers(2, 8, 0.25), None, 3, {"CORES": "3", "CORES_MIN": "3"}),
        (Workers(2, 8, 0.25), 5, 3, {"CORES": "3", "CORES_MIN": "3"}),
    ],
)  # fmt: skip
def test_threads_are_the_machines_or_the_groups_or_linkerds_and_http2_is_linkerds(
    workers: Workers, group: int | None, cores: int | None, wanted: dict[str, str]
) -> None:
    settings = make_settings(proxy_cores=group)
    interval = {"INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL": "20s"}
    settings = replace(settings, linkerd=replace(settings.linkerd, workers=workers, parameters=interval))
    found = proxy_environment(
        settings, "web-k7q2x-1", (ADDRESS,), "a", SOCKET, "info", drain=30.0, families=(4,), cores=cores
    )
    prefix = "LINKERD2_PROXY_"
    assert {
        name.removeprefix(prefix): value for name, value in found.items() if name.startswith(f"{prefix}CORES")
    } == wanted
    assert found[f"{prefix}INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL"] == "20s"
    assert found[f"{prefix}INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT"] == "3s", "the chart's default"
