"""Opaque ports: lists as people write them, and where a Service and a group differ."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.api.group import Port
from exclave.api.workload.opaque_ports import is_opaque, opaque_list, opaque_mismatches, read_opaque

LINKERD = "25,587,3306,4444,5432,6379,9300,11211"
HTTP, PG, QUEUE = Port("http", 8080), Port("pg", 5432), Port("queue", 5672, opaque=True)


@pytest.mark.parametrize(
    ("text", "spans", "names"),
    [
        ("", (), set()),
        ("25,3306", ((25, 25), (3306, 3306)), set()),
        (" 25, 4000-4010,, ", ((25, 25), (4000, 4010)), set()),
        ("db,5432", ((5432, 5432),), {"db"}),
        ("9-1,port 80,Db,700000,99999999999-1", (), set()),
        ("80-db,3306", ((3306, 3306),), {"80-db"}),
    ],
)
def test_lists_are_read_as_people_write_them(text: str, spans: Any, names: set[str]) -> None:
    assert read_opaque(text) == (spans, names)


@given(some.text(max_size=40))
def test_no_list_is_refused(text: str) -> None:
    read_opaque(text)


def test_a_members_list_is_linkerds_and_the_groups() -> None:
    assert opaque_list(LINKERD, (HTTP, PG, QUEUE)) == f"{LINKERD},5672"
    assert opaque_list("25, 5600-5700,", (HTTP, QUEUE)) == "25,5600-5700"
    assert opaque_list("", (HTTP, QUEUE)) == "5672"
    assert opaque_list("", (HTTP,)) == ""


@given(some.lists(some.integers(1, 65535)), some.lists(some.tuples(some.integers(1, 65535), some.booleans())))
def test_a_members_list_has_every_port_of_both_and_no_other(linkerd: list[int], group: list[tuple[int, bool]]) -> None:
    listed = opaque_list(",".join(map(str, linkerd)), [Port(f"p{port}", port, opaque) for port, opaque in group])
    wanted = {*linkerd, *(port for port, opaque in group if opaque)}
    assert {port for port in {*wanted, *(port for port, _ in group)} if is_opaque(listed, port)} == wanted


def service(ports: list[dict[str, Any]], annotation: str | None = None, **spec: Any) -> dict[str, Any]:
    annotations = {} if annotation is None else {"config.linkerd.io/opaque-ports": annotation}
    metadata = {"name": "db", "namespace": "shop", "annotations": annotations}
    return {"metadata": metadata, "spec": {"clusterIP": "10.43.0.9", "ports": ports, **spec}}


TO_QUEUE, TO_HTTP, TO_PG = {"port": 5672}, {"port": 80, "targetPort": 8080}, {"port": 5432, "targetPort": "pg"}
ANNOTATE = "kubectl -n shop annotate --overwrite service db config.linkerd.io/opaque-ports="
CREATE = "kubectl exclave group create web -n shop --port name=http,port=8080"

CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the group's port is opaque, and the Service has no annotation": (
        service([TO_QUEUE, TO_HTTP]), [f"{ANNOTATE}{LINKERD},5672"]),
    "the group's port is opaque, and the Service's annotation lacks it": (
        service([TO_QUEUE], "25"), [f"{ANNOTATE}25,5672"]),
    "the annotation is empty, so Linkerd's list does not hold either": (
        service([TO_PG, TO_QUEUE], ""), [f"{ANNOTATE}5432", f"{ANNOTATE}5672"]),
    "both are opaque": (service([TO_QUEUE], "5672"), []),
    "both are, by a name": (service([{"name": "q", "port": 5672}], "q"), []),
    "both are, by Linkerd's list": (service([TO_PG]), []),
    "the Service's number counts, not the group's": (
        service([{"port": 1, "targetPort": 5672}], "5672"), [f"{ANNOTATE}5672,1"]),
    "the Service's port alone is opaque": (
        service([TO_HTTP], "80"),
        [f"{CREATE},opaque --port name=pg,port=5432 --port name=queue,port=5672,opaque"]),
    "by Linkerd's list the Service's port alone is": (
        service([{"port": 3306, "targetPort": "http"}]),
        [f"{CREATE},opaque --port name=pg,port=5432 --port name=queue,port=5672,opaque"]),
    "neither is": (service([TO_HTTP]), []),
    "it is headless, so its callers connect to addresses": (service([TO_QUEUE], clusterIP="None"), []),
    "it leads to a port that the group does not serve": (service([{"port": 5672, "targetPort": 1}]), []),
    "it is malformed": (service([{"port": "x"}, {"targetPort": [1]}]), []),
}  # fmt: skip


@pytest.mark.parametrize(("found", "remedies"), CASES.values(), ids=CASES)
def test_each_difference_has_the_line_to_type(found: dict[str, Any], remedies: list[str]) -> None:
    assert [one.remedy for one in opaque_mismatches(found, "web", (HTTP, PG, QUEUE), LINKERD)] == remedies


def test_a_difference_names_both_ports_and_the_price() -> None:
    (one,) = opaque_mismatches(service([{"port": 1, "targetPort": 5672}]), "web", (QUEUE,), LINKERD)
    assert one.problem == (
        "port 5672 of group web is opaque, and port 1 of Service db is not: "
        "each connection on which the server speaks first waits 10 s"
    )
