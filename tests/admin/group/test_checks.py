"""Options of a group that are refused or get a warning, with every text."""

from dataclasses import replace
from typing import Any

import pytest

from exclave.admin.group.checks import (
    check_accounts_namespace,
    check_namespace,
    checked_spec,
    group_warnings,
    labels_of,
    merge_spec,
    read_label,
    read_port,
    selecting,
    spec_from_options,
)
from exclave.api.group import GroupSpec, Port
from exclave.errors import ExclaveError, Fault

SPEC = GroupSpec("web", ("10.0.0.0/8",), {"app": "web"}, (Port("http", 8080),))

NO_PLACE = "is no place for machines: it belongs to the cluster itself, or to nobody in particular"


@pytest.mark.parametrize(
    ("namespace", "why"),
    [
        *((name, NO_PLACE) for name in ("kube-system", "kube-public", "linkerd", "linkerd-viz", "exclave", "default")),
        ("shop-vms", "ends in -vms, as the namespaces of machines' accounts do"),
        ("Shop", "is not a namespace's name of at most 59 characters (that of its accounts is four longer)"),
        ("s" * 60, "is not a namespace's name of at most 59 characters (that of its accounts is four longer)"),
    ],
)
def test_a_wrong_namespace_is_refused(namespace: str, why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_namespace(namespace, "web")
    assert refused.value.fault is Fault.USAGE
    assert refused.value.message == f"namespace {namespace} {why}"
    assert refused.value.hint == "name the namespace of the application: -n NAMESPACE"


@pytest.mark.parametrize("name", ["Web", "web.a", "-web", "w" * 41, "", "../web"])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_namespace("shop", name)
    assert refused.value.message == (
        f"{name!r} is no name for a group: one DNS label of at most 40 characters was expected"
    )


def test_no_group_may_be_in_the_controllers_namespace_of_any_name() -> None:
    with pytest.raises(ExclaveError) as refused:
        check_namespace("machines", "web", "machines")
    assert refused.value.message == f"namespace machines {NO_PLACE}"


def test_other_namespaces_are_accepted() -> None:
    check_namespace("shop", "web")
    check_namespace("s" * 59, "w" * 40)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080", {"name": "8080", "port": 8080}),
        ("name=http,port=8080", {"name": "http", "port": 8080}),
        ("port=5432,name=pg,opaque", {"name": "pg", "port": 5432, "opaque": True}),
        ("port=5432,opaque=true", {"name": "5432", "port": 5432, "opaque": True}),
    ],
)
def test_a_port_has_a_short_and_a_long_form(text: str, port: dict[str, Any]) -> None:
    assert read_port(text) == port


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0", "--port: a number from 1 to 65535 was expected, found '0'"),
        ("http", "--port http: 'http' is none of name=NAME, port=NUMBER, opaque"),
        ("name=http", "--port name=http: port=NUMBER was expected"),
        ("port=x", "--port: a number from 1 to 65535 was expected, found 'x'"),
        ("name=A,port=1", "--port name=A,port=1: 'name=A' is none of name=NAME, port=NUMBER, opaque"),
    ],
)
def test_a_wrong_port_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_port(text)
    assert str(refused.value) == why


@pytest.mark.parametrize("text", ["app", "=web", "app=a b", "-a=b", "a/b/c=d"])
def test_a_wrong_label_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_label(text)
    assert str(refused.value) == f"--label {text}: KEY=VALUE was expected, as Kubernetes writes labels"


def test_labels_of_exclave_are_refused() -> None:
    with pytest.raises(ValueError) as refused:
        read_label("exclave.dev/group=other")
    assert str(refused.value) == "--label exclave.dev/group=other: labels of exclave.dev are the controller's to write"


def test_a_spec_has_only_the_options_that_were_given() -> None:
    assert spec_from_options() == {}
    assert spec_from_options(
        network=["10.0.0.0/8"], port=["8080"], label=["app=web", "tier="], service_account="a",
        certificate_lifetime="90m", capture="all", inbound_policy="deny", proxy_cores="4",
    ) == {
        "networks": ["10.0.0.0/8"],
        "ports": [{"name": "8080", "port": 8080}],
        "labels": {"app": "web", "tier": ""},
        "certificateLifetime": "90m",
        "serviceAccount": "a",
        "capture": "all",
        "inboundPolicy": "deny",
        "proxyCores": 4,
    }  # fmt: skip


def test_days_are_converted_to_hours() -> None:
    assert spec_from_options(certificate_lifetime="1d") == {"certificateLifetime": "24h"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param(
            {"port": ["0"], "label": ["x"], "certificate_lifetime": "soon"},
            "--port: a number from 1 to 65535 was expected, found '0'; --label x: KEY=VALUE was expected, as "
            "Kubernetes writes labels; --certificate-lifetime: 'soon' is not a duration such as 10s, 5m or 24h",
            id="all mistakes at once",
        ),
        pytest.param({"port": ["80", "name=b,port=80"]}, "two ports have the number 80", id="one number twice"),
        pytest.param({"port": ["name=b,port=80", "name=b,port=81"]}, "two ports have the name b", id="one name twice"),
        pytest.param({"port": ["4143"]}, "port 4143 is the proxy's own", id="the proxy's port"),
        pytest.param(
            {"port": ["name=linkerd-proxy,port=80"]},
            "a port named linkerd-proxy tells Linkerd where the proxy is, and is no port of a group",
            id="the proxy's name",
        ),
        *(
            pytest.param(
                {"proxy_cores": text}, f"--proxy-cores: a number from 1 to 1024 was expected, found {text!r}", id=text
            )
            for text in ("0", "1025", "two")
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        spec_from_options(**options)
    assert (refused.value.fault, refused.value.message) == (Fault.USAGE, why)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, "group web needs networks: a machine is admitted only with an address inside one of them"),
        ({"networks": ["10.0.0.1/8"]}, "networks: 10.0.0.1/8 has host bits set"),
        ({"networks": ["10.0.0.0/8"], "certificateLifetime": "1s"}, "certificateLifetime: at least 10s, found 1s"),
        ({"networks": ["10.0.0.0/8"], "serviceAccount": "a.b"}, "serviceAccount: a name without dots, found 'a.b'"),
    ],
)
def test_a_spec_that_the_controller_cannot_read_is_refused(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        checked_spec("web", spec)
    assert refused.value.message == why


def test_only_the_given_options_change_an_existing_spec() -> None:
    found = {"networks": ["10.0.0.0/8"], "labels": {"app": "web", "old": "1"}, "forgetAfter": "1h"}
    assert merge_spec({"labels": {"app": "api"}}, found) == {
        "networks": ["10.0.0.0/8"],
        "labels": {"app": "api", "old": None},
        "forgetAfter": "1h",
    }


def service(name: str = "web", selector: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    labels = more.pop("labels", {})
    spec = {"selector": {"app": "web"} if selector is None else selector, "ports": [{"port": 8080}], **more}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


def pod(account: str = "other", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "p", "labels": labels}, "spec": {"serviceAccountName": account}}


def group(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


WARNINGS = [
    pytest.param([], [service()], [], [], id="a Service that fits"),
    pytest.param([], [service(selector={"app": "other"}, clusterIP="None")], [], [], id="a Service of others"),
    pytest.param([], [service(selector={})], [], [], id="a Service without a selector"),
    pytest.param([], [service(type="ExternalName")], [], [], id="a Service that is only a name"),
    pytest.param(
        [],
        [service(clusterIP="None")],
        [],
        [
            "Service web is headless and selects group web: one request through the mesh to a member's own name in it "
            "crashes Linkerd's destination controller; give the Service a cluster IP, or a selector of pods only"
        ],
        id="a headless Service",
    ),
    pytest.param(
        [],
        [service(selector={"exclave.dev/group": "web"}, labels={"mirror.linkerd.io/exported": "true"})],
        [],
        [
            "Service web is mirrored between clusters and selects group web: virtual machines in it may crash the "
            "other cluster's controller; use a Service of its own for the group"
        ],
        id="an exported Service, which selects by our own label",
    ),
    pytest.param(
        [],
        [service(ports=[{"port": 80, "targetPort": 9090}, {"port": 81, "targetPort": "http"}, {"port": 8080}])],
        [],
        [
            "Service web sends to port 9090, which group web does not serve: its members get nothing from it; add "
            "--port 9090"
        ],
        id="a port that the group does not serve",
    ),
    pytest.param(
        [],
        [service()],
        [pod(app="web"), pod(app="web"), pod(app="api")],
        ["Service web selects group web and 2 pods: they share its traffic; if not meant, use other labels"],
        id="pods behind the same Service",
    ),
    pytest.param(
        [],
        [],
        [pod("web")],
        [
            "ServiceAccount web is used by 1 pod: the group's machines get the same identity, and whatever policies "
            "and RBAC let these pods do; name one of its own: --service-account"
        ],
        id="pods with the same account",
    ),
    pytest.param(
        [group("api", serviceAccount="web")],
        [],
        [],
        [
            "groups web and api share ServiceAccount web: policies cannot tell their members apart, and either may be "
            "taken for the other"
        ],
        id="another group with the same account",
    ),
    pytest.param(
        [group("api", labels={"app": "web", "tier": "1"})],
        [],
        [],
        ["the labels of groups web and api overlap: a Service that selects one may select both"],
        id="another group with more labels",
    ),
    pytest.param(
        [group("api", labels={"app": "web", "tier": "1"})],
        [service()],
        [],
        ["Service web selects groups web and api: they share its traffic"],
        id="a Service that selects both groups",
    ),
    pytest.param(
        [group("web", serviceAccount="web", labels={"app": "web"}), group("db", labels={"app": "db"})],
        [],
        [],
        [],
        id="the group itself, and one that is apart",
    ),
]


@pytest.mark.parametrize(("groups", "services", "pods", "options"), WARNINGS)
def test_each_surprise_has_a_warning(
    groups: list[Any], services: list[Any], pods: list[Any], options: list[str]
) -> None:
    assert group_warnings("web", SPEC, groups, services, pods, opaque_ports="25,3306") == options


def test_a_port_that_is_opaque_on_one_side_has_a_warning_with_the_line_to_type() -> None:
    found = service("db")
    found["metadata"]["namespace"] = "shop"
    found["spec"]["ports"] = [{"port": 5432, "targetPort": "pg"}]
    spec = replace(SPEC, ports=(Port("http", 8080), Port("pg", 5432, opaque=True)))
    (line,) = group_warnings("web", spec, [], [found], [], opaque_ports="25,3306")
    assert line == (
        "port 5432 of group web is opaque, and port 5432 of Service db is not: each connection on which the server "
        "speaks first waits 10 s; to do: kubectl -n shop annotate --overwrite service db "
        "config.linkerd.io/opaque-ports=25,3306,5432"
    )
    assert group_warnings("web", spec, [], [found], [], opaque_ports=None) == [], "Linkerd's list is unknown"


def test_services_select_by_the_groups_labels_and_its_name() -> None:
    services = [service("a"), service("b", {"exclave.dev/group": "web"}), service("c", {"app": "web", "x": "y"})]
    assert [one["metadata"]["name"] for one in selecting(services, labels_of("web", SPEC))] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({"probe": ["8080"]}, {"probes": [{"kind": "tcp", "port": 8080}]}),
        (
            {"probe": ["port=8080,every=2s,timeout=500ms,failures=2", "9090"]},
            {
                "probes": [
                    {"kind": "tcp", "port": 8080, "every": "2s", "timeout": "500ms", "failures": 2},
                    {"kind": "tcp", "port": 9090},
                ]
            },
        ),
        ({"failure": "after=10s,outbound=closed"}, {"failure": {"after": "10s", "outbound": "closed"}}),
        ({"failure": "inbound=open"}, {"failure": {"inbound": "open"}}),
        ({"forget_after": "168h"}, {"forgetAfter": "168h"}),
    ],
)
def test_probes_and_the_failure_policy_are_options(options: dict[str, Any], spec: dict[str, Any]) -> None:
    assert spec_from_options(**options) == spec
    checked_spec("web", {"networks": ["10.0.0.0/8"], **spec})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"probe": ["every=2s"]}, "--probe every=2s: port=NUMBER was expected"),
        ({"probe": ["port=0"]}, "--probe: a number from 1 to 65535 was expected, found '0'"),
        ({"probe": ["port=1,every=now"]}, "--probe every: 'now' is not a duration such as 10s, 5m or 24h"),
        ({"probe": ["port=1,path=/"]}, "--probe port=1,path=/: path=/ is none of port=, every=, timeout=, failures="),
        ({"probe": ["http"]}, "--probe http: KEY=VALUE was expected, found 'http'"),
        ({"probe": ["port=1,failures=0"]}, "--probe port=1,failures=0: failures=0 is none of port=, every=, "
            "timeout=, failures="),
        ({"failure": "outbound=shut"}, "--failure outbound=shut: outbound=shut is none of after=TIME, "
            "outbound|inbound=open|closed"),
        ({"forget_after": "never"}, "--forget-after: 'never' is not a duration such as 10s, 5m or 24h"),
    ],
)  # fmt: skip
def test_wrong_probes_and_policies_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        spec_from_options(**options)
    assert refused.value.message == why


def home(**labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "shop-vms", "labels": {f"exclave.dev/{key}": value for key, value in labels.items()}}}


def test_the_namespace_of_machines_accounts_may_be_ours_or_adopted() -> None:
    check_accounts_namespace(None, "shop", [])
    check_accounts_namespace(home(machines="shop"), "shop", ["ServiceAccount robot in shop-vms"])
    check_accounts_namespace(home(), "shop", [], adopt=True)
    check_accounts_namespace(home(), "shop", [], ["RoleBinding team"], adopt=True)
    check_accounts_namespace(home(machines="shop"), "shop", [], ["RoleBinding team"], adopt=True)


RIGHTS = "who has rights in it can be any machine of the group"


@pytest.mark.parametrize(
    ("found", "claims", "why", "hint"),
    [
        (
            home(), [], f"shop-vms, which somebody else has made: {RIGHTS}",
            "delete the namespace, or accept it: --adopt",
        ),
        (
            home(), ["RoleBinding team", "ServiceAccount web.vm.k7q2x-1"],
            f"shop-vms, which somebody else has made: {RIGHTS}; found: RoleBinding team; ServiceAccount web.vm.k7q2x-1",
            "delete the namespace, or accept it: --adopt",
        ),
        (
            home(machines="shop"), ["RoleBinding team"], f"shop-vms: {RIGHTS}; found: RoleBinding team",
            "delete what was found, or accept it: --adopt",
        ),
    ],
)  # fmt: skip
def test_a_namespace_in_which_others_have_rights_is_not_adopted_silently(
    found: dict[str, Any], claims: list[str], why: str, hint: str
) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_accounts_namespace(found, "shop", [], claims)
    assert refused.value.message == f"the accounts of machines go to namespace {why}"
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("found", "odd", "why"),
    [
        (home(), ["Pod a in shop-vms"], "it holds Pod a in shop-vms"),
        (home(machines="lab"), [], "it is labelled as that of lab"),
    ],
)
def test_a_foreign_namespace_for_machines_accounts_is_refused(found: dict[str, Any], odd: list[str], why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_accounts_namespace(found, "shop", odd, adopt=True)
    assert refused.value.message.startswith(
        f"the accounts of machines go to namespace shop-vms, which is somebody else's: {why}; every account in it"
    )
