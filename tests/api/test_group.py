"""Specs of groups: defaults, mistakes with their field, and one answer of schema, commands and controller."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.admin.group.checks import check_namespace, checked_spec
from exclave.api.definitions.manifests import schema_of
from exclave.api.group import (
    INBOUND_POLICIES,
    PROXY_PORTS,
    FailurePolicy,
    GroupSpec,
    Port,
    Probe,
    account_of,
    name_fault,
    namespace_fault,
    parse_group,
    render_group,
    spec_faults,
)
from exclave.api.requests import WORKLOAD_GROUPS
from exclave.controller.policy.accept import GroupRights, accepted_condition
from exclave.errors import ExclaveError
from exclave_sandbox.apiserver.kinds.rules import check_group
from exclave_sandbox.apiserver.kinds.schema import check_schema

from .group_specs import SPECS, Refuser
from .groups import groups


@given(groups)
def test_a_group_written_out_is_read_back(group: GroupSpec) -> None:
    assert parse_group("any", render_group(group)) == group


def test_what_a_group_leaves_out_is_default() -> None:
    assert parse_group(
        "web", {"networks": ["10.77.0.0/24"], "ports": [{"port": 8080}], "probes": [{"port": 8080}]}
    ) == (
        GroupSpec(
            service_account="web",
            networks=("10.77.0.0/24",),
            ports=(Port("8080", 8080, opaque=False),),
            certificate_lifetime=86400,
            capture="cluster",
            inbound_policy=None,
            probes=(Probe(8080, "tcp", every=5, timeout=2, failures=3),),
            failure=FailurePolicy(after=30, outbound="open", inbound="closed"),
            forget_after=30 * 86400,
            proxy_cores=None,
        )
    )


LEAST = {"networks": ["10.77.0.0/24"]}
MISTAKEN_GROUPS: dict[str, tuple[dict[str, Any], str]] = {
    "no networks": ({"networks": None}, "networks: list was expected, found NoneType"),
    "a network that is none": (
        {"networks": ["10.77.0.1/24"]},
        "networks: 10.77.0.1/24 has host bits set",
    ),
    "a network that is a number": (
        {"networks": [10]},
        "networks: a network such as 10.0.0.0/8 was expected, found 10",
    ),
    "ports that are no list": ({"ports": {"port": 1}}, "ports: list was expected, found dict"),
    "a port that is a number": ({"ports": [8080]}, "ports: a mapping was expected, found 8080"),
    "a port without a number": ({"ports": [{"name": "http"}]}, "port: int was expected, found NoneType"),
    "a port out of range": ({"ports": [{"port": 70000}]}, "port: 1 to 65535, found 70000"),
    "a port that is true": ({"ports": [{"port": True}]}, "port: int was expected, found bool"),
    "a probe of another kind": ({"probes": [{"kind": "exec", "port": 1}]}, "kind: tcp was expected, found 'exec'"),
    "a probe that is no mapping": ({"probes": ["tcp"]}, "probes: a mapping was expected, found 'tcp'"),
    "a duration without a unit": (
        {"certificateLifetime": "24"},
        "certificateLifetime: '24' is not a duration such as 10s, 5m or 24h",
    ),
    "certificates that end at once": ({"certificateLifetime": "5s"}, "certificateLifetime: at least 10s, found 5s"),
    "capturing something else": (
        {"capture": "most"},
        "capture: cluster or all or none was expected, found 'most'",
    ),
    "failing half way": (
        {"failure": {"inbound": "ajar"}},
        "inbound: closed or open was expected, found 'ajar'",
    ),
    "more threads than any machine has": ({"proxyCores": 1025}, "proxyCores: 1 to 1024, found 1025"),
    "a number of threads that is true": ({"proxyCores": True}, "proxyCores: int was expected, found bool"),
    "an account with dots": ({"serviceAccount": "web.vm"}, "serviceAccount: a name without dots, found 'web.vm'"),
    "a label that Kubernetes would not take": (
        {"labels": {"app": "web shop"}},
        "labels: a label as Kubernetes takes it was expected, found 'app': 'web shop'",
    ),
    "labels that are no mapping": ({"labels": ["app"]}, "labels: dict was expected, found list"),
}


@pytest.mark.parametrize(("mistake", "words"), MISTAKEN_GROUPS.values(), ids=MISTAKEN_GROUPS)
def test_a_mistake_in_a_group_is_refused_with_the_name_of_the_field(mistake: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_group("web", LEAST | mistake)
    assert str(caught.value) == words


keys = st.sampled_from(("networks", "ports", "port", "probes", "failure", "kind", "labels", "every", "capture"))
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
    max_leaves=12,
)


@given(st.dictionaries(keys, trees))
def test_no_shape_of_a_group_raises_anything_else(tree: dict[str, Any]) -> None:
    try:
        assert isinstance(parse_group("web", LEAST | tree), GroupSpec)
    except ValueError as problem:
        assert str(problem)


NO_PLACE = "is no place for machines: it belongs to the cluster itself, or to nobody in particular"
TOO_LONG = "is not a namespace's name of at most 59 characters (that of its accounts is four longer)"
PLACES: dict[str, str | None] = {
    "shop": None,
    "s" * 59: None,
    "linked": None,
    "default": NO_PLACE,
    "kube-system": NO_PLACE,
    "kube-node-lease": NO_PLACE,
    "kube-flannel": NO_PLACE,
    "linkerd": NO_PLACE,
    "linkerd-viz": NO_PLACE,
    "mesh": NO_PLACE,
    "exclave": NO_PLACE,
    "machines": NO_PLACE,
    "shop-vms": "ends in -vms, as the namespaces of machines' accounts do",
    "Shop": TOO_LONG,
    "shop.web": TOO_LONG,
    "s" * 60: TOO_LONG,
    "": TOO_LONG,
}
"""Namespaces, and why no group may be there. exclave's own is `machines`, Linkerd's is `mesh`."""


@pytest.mark.parametrize(("namespace", "why"), PLACES.items(), ids=PLACES)
def test_the_admins_commands_and_the_controller_refuse_the_same_namespaces(namespace: str, why: str | None) -> None:
    assert namespace_fault(namespace, "machines", "mesh") == why
    if why is None:
        check_namespace(namespace, "web", "machines", "mesh")
        return
    with pytest.raises(ExclaveError) as refused:
        check_namespace(namespace, "web", "machines", "mesh")
    assert refused.value.message == f"namespace {namespace} {why}"


@pytest.mark.parametrize(
    ("name", "is_good"),
    [
        ("web", True),
        ("w" * 40, True),
        ("w" * 41, False),
        ("web.a", False),
        ("Web", False),
        ("-web", False),
        ("", False),
    ],
)
def test_a_name_is_one_short_dns_label(name: str, is_good: bool) -> None:
    assert (name_fault(name) is None) is is_good


FAULTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "one that is good": ({}, []),
    "no network": ({"networks": []}, ["networks: at least one was expected"]),
    "an account that is no DNS label": ({"serviceAccount": "Web"}, ["serviceAccount: one DNS label was expected"]),
    "one port twice": (
        {"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}, ["two ports have the number 80"],
    ),
    "one name twice": (
        {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}, ["two ports have the name a"],
    ),
    "a port of the proxy": ({"ports": [{"port": 4143}]}, ["port 4143 is the proxy's own"]),
    "a name that Linkerd gives a meaning": (
        {"ports": [{"port": 80, "name": "linkerd-proxy"}]},
        ["a port named linkerd-proxy tells Linkerd where the proxy is, and is no port of a group"],
    ),
    "a port's name that is no DNS label": (
        {"ports": [{"port": 80, "name": "HTTP"}]}, ["port 80: a name of one DNS label was expected"],
    ),
    "durations out of their limits": (
        {
            "certificateLifetime": "721h", "probes": [{"port": 80, "every": "0s"}, {"port": 81, "timeout": "2m"}],
            "failure": {"after": "0s"}, "forgetAfter": "0s",
        },
        ["certificateLifetime: 10s to 720h was expected, found '721h'",
         "forgetAfter: 60s to 876000h was expected, found '0s'",
         "every: 100ms to 1h was expected, found '0s'",
         "timeout: 10ms to 60s was expected, found '2m'",
         "after: 1s to 720h was expected, found '0s'"],
    ),
    "more than can be listed": (
        {"probes": [{"port": 80}] * 101, "labels": {f"a{number}": "" for number in range(101)}},
        ["labels: at most 100 were expected", "probes: at most 100 were expected"],
    ),
    "labels of ours": (
        {"labels": {"exclave.dev/group": "x", "a.exclave.dev/b": "x", "notexclave.dev/c": "x"}},
        ["labels: exclave.dev/group is the controller's to write",
         "labels: a.exclave.dev/b is the controller's to write"],
    ),
    "a policy that Linkerd does not know": (
        {"inboundPolicy": "open"},
        ["inboundPolicy: one of all-unauthenticated, all-authenticated, cluster-unauthenticated, "
         "cluster-authenticated, deny, audit was expected"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "faults"), FAULTS.values(), ids=FAULTS)
def test_why_a_group_that_can_be_read_is_not_accepted(spec: dict[str, Any], faults: list[str]) -> None:
    assert spec_faults(parse_group("web", LEAST | spec), LEAST | spec) == faults


def judged(spec: Any) -> tuple[bool, str]:
    """Whether the controller accepts a group with this spec, and its message."""
    metadata = {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}
    condition = accepted_condition(
        {"metadata": metadata, "spec": spec}, [], GroupRights(()), members=0, refused_namespace=False
    )
    return condition.status, condition.message


@pytest.mark.parametrize(
    ("spec", "faults"), [row for row in FAULTS.values() if row[0] != {"networks": []}],
    ids=[name for name, row in FAULTS.items() if row[0] != {"networks": []}],
)  # fmt: skip
def test_the_admins_commands_and_the_controller_refuse_a_spec_with_the_same_message(
    spec: dict[str, Any], faults: list[str]
) -> None:
    words = "; ".join(faults)
    assert judged(LEAST | spec) == (
        (False, f"it takes no new members: {words}") if faults else (True, "it takes members")
    )
    if not faults:
        assert checked_spec("web", LEAST | spec)
        return
    with pytest.raises(ExclaveError) as refused:
        checked_spec("web", LEAST | spec)
    assert refused.value.message == words


ANYTHING = st.recursive(
    st.booleans()
    | st.integers()
    | st.sampled_from(("", "Web", "web", "10s", "1w", "10.0.0.0/8", "deny", "a b", "open")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("port", "name", "after")), inner),
    max_leaves=4,
)


@st.composite
def changed_specs(draw: st.DrawFn) -> dict[str, Any]:
    """A possible spec, with one part replaced by anything."""
    ports = st.integers(1, 65535).filter(lambda number: number not in PROXY_PORTS)
    whole = draw(groups)
    spec = render_group(whole) | {
        "serviceAccount": "web",
        "inboundPolicy": draw(st.sampled_from(INBOUND_POLICIES)),
        "ports": [
            {"name": f"p{number}", "port": number, "opaque": False} for number in draw(st.sets(ports, max_size=3))
        ],
    }
    place = draw(st.sampled_from([(), *(path for path in _places(spec) if path)]))
    if not place:
        return spec
    spec, inner = (made := copy.deepcopy(spec)), made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = draw(ANYTHING)
    return spec


def _places(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [before, *(place for key, one in inner for place in _places(one, (*before, key)))]


@given(changed_specs())
def test_schema_and_code_agree_on_any_spec(spec: dict[str, Any]) -> None:
    """The API server refuses less than the code, which checks what a schema cannot express."""
    try:
        is_taken = bool(checked_spec("web", spec))
    except ExclaveError:
        is_taken = False
    assert judged(spec)[0] is is_taken
    if list(check_schema({"spec": spec}, schema_of(WORKLOAD_GROUPS), "")):
        assert not is_taken


@pytest.mark.parametrize(
    ("spec", "account"),
    [({"serviceAccount": "a"}, "a"), ({}, "web"), (None, "web"), (["a"], "web"), ({"serviceAccount": None}, "web")],
)
def test_the_account_of_a_group_is_found_in_a_spec_of_any_shape(spec: Any, account: str) -> None:
    assert account_of({"metadata": {"name": "web"}, "spec": spec}) == account


@pytest.mark.parametrize(("spec", "refuser"), SPECS.values(), ids=SPECS)
def test_schema_commands_and_controller_agree(spec: dict[str, Any], refuser: Refuser) -> None:
    """tests/peers compares the same table with real API servers, which apply the CEL rules."""
    whole = LEAST | spec
    group = {"metadata": {"name": "web"}, "spec": whole}
    is_stored = not list(check_schema({"spec": whole}, schema_of(WORKLOAD_GROUPS), "")) and not list(check_group(group))
    try:
        is_taken = bool(checked_spec("web", whole))
    except ExclaveError:
        is_taken = False
    assert (is_stored, is_taken, judged(whole)[0]) == (refuser != "schema", refuser is None, refuser is None)


# Values that were accepted before some limits existed. Members of a group that has one go on, with possible values.
OLDER = {
    "never forget": {"forgetAfter": "100000h"},
    "forget at once": {"forgetAfter": "0s"},
    "certificates for a lifetime": {"certificateLifetime": "100000h"},
    "probes without a pause": {"probes": [{"port": 80, "every": "0s", "timeout": "0s", "failures": 5000}]},
}


@pytest.mark.parametrize("spec", OLDER.values(), ids=OLDER)
def test_a_group_that_was_valid_can_be_read(spec: dict[str, Any]) -> None:
    group = parse_group("web", {"networks": ["10.0.0.0/8"], **spec})
    for probe in group.probes:
        assert (probe.every, probe.timeout, probe.failures) == (0.1, 0.01, 5000)
    assert group.forget_after >= 60
    assert parse_group("web", render_group(group)) == group
