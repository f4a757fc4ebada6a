"""The options of `group create`: which of them are refused, all at once, and which get a warning. Pure.

Options that the controller would not accept are refused; api/group.py decides this for both. Options that work but may
surprise get a warning, because the admin may want them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from exclave.api.fields import FieldError
from exclave.api.group import (
    MOST_CORES,
    GroupSpec,
    Port,
    account_of,
    is_our_label,
    name_fault,
    namespace_fault,
    parse_group,
    port_faults,
    spec_faults,
)
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.member import condition_of
from exclave.api.names import ACCOUNTS_LABEL, GROUP_LABEL
from exclave.api.requests import Object
from exclave.api.workload.opaque_ports import opaque_mismatches
from exclave.errors import UsageError
from exclave.kit.formats.kubernetes import is_dns_label, is_label_key, is_label_value
from exclave.kit.formats.times import format_duration, parse_duration

EXAMPLES = "see the examples: kubectl exclave group create --help"

_MIRRORED = ("mirror.linkerd.io/exported", "mirror.linkerd.io/mirrored-service")


def check_namespace(
    namespace: str, name: str, controller_namespace: str = "exclave", linkerd_namespace: str = "linkerd"
) -> None:
    """Raise UsageError if no group may have this name or be in this namespace."""
    if (why := namespace_fault(namespace, controller_namespace, linkerd_namespace)) is not None:
        raise UsageError(f"namespace {namespace} {why}", "name the namespace of the application: -n NAMESPACE")
    if (why := name_fault(name)) is not None:
        raise UsageError(f"{name!r} {why}", "use small letters, digits and dashes, such as web")


def check_accounts_namespace(
    found: Object | None, namespace: str, odd: Sequence[str], claims: Sequence[str] = (), *, adopt: bool = False
) -> None:
    """Raise UsageError if the accounts' namespace `found` belongs to others.

    `odd`: foreign objects in it. `claims`: by what others can be a machine of the group, such as RoleBindings in it.
    `adopt`: the admin accepts these, and a namespace that somebody else has made.
    """
    # Every account in it gets a machine's rights, and who may make tokens there can be any machine.
    if found is None:
        return
    name = found["metadata"]["name"]
    whose = (found["metadata"].get("labels") or {}).get(ACCOUNTS_LABEL)
    if whose == namespace or (whose is None and not odd):
        _require_adoption(name, claims, is_ours=whose == namespace, adopt=adopt)
        return
    why = f"is labelled as that of {whose}" if whose is not None else f"holds {', '.join(odd[:5])}"
    raise UsageError(
        f"the accounts of machines go to namespace {name}, which is somebody else's: it {why}; every account in it "
        "would get a machine's rights, and be held to a machine's names",
        "have the group in another namespace: -n NAMESPACE; or move away what is in this one",
    )


def _require_adoption(name: str, claims: Sequence[str], *, is_ours: bool, adopt: bool) -> None:
    """Raise UsageError if others can be machines, or made the accounts' namespace `name`, without `adopt`."""
    if adopt or (is_ours and not claims):
        return
    made = "" if is_ours else ", which somebody else has made"
    found = f"; found: {'; '.join(claims)}" if claims else ""
    raise UsageError(
        f"the accounts of machines go to namespace {name}{made}: who has rights in it can be any machine of the group"
        f"{found}",
        f"delete {'what was found' if is_ours else 'the namespace'}, or accept it: --adopt",
    )


def spec_from_options(**options: Any) -> Object:
    """The part of a group's spec that the options of `group create` name. Raises UsageError with every mistake."""
    mistakes: list[str] = []
    spec: Object = {}
    for option, (key, read) in _OPTIONS.items():
        value = options.get(option)
        if isinstance(value, list):
            if value:
                spec[key] = [_attempt(mistakes, read, text) for text in value]
        elif value is not None:
            spec[key] = _attempt(mistakes, read, value)
    if not mistakes and "ports" in spec:
        mistakes += port_faults([Port(port["name"], port["port"]) for port in spec["ports"]])
    if mistakes:
        raise UsageError("; ".join(mistakes), EXAMPLES)
    if "labels" in spec:
        spec["labels"] = dict(spec["labels"])
    return spec


def parsed_spec(name: str, spec: Mapping[str, Any]) -> GroupSpec:
    """The whole spec as the controller reads it. Raises UsageError if it cannot be used."""
    if not spec.get("networks"):
        raise UsageError(
            f"group {name} needs networks: a machine is admitted only with an address inside one of them",
            "name one or several: --network 10.0.0.0/16",
        )
    try:
        return parse_group(name, spec)
    except FieldError as problem:
        raise UsageError(str(problem), EXAMPLES) from None


def checked_spec(name: str, spec: Mapping[str, Any]) -> GroupSpec:
    """The whole spec. Raises UsageError if it cannot be used, or the controller would not accept a group with it."""
    checked = parsed_spec(name, spec)
    if faults := spec_faults(checked, spec):
        raise UsageError("; ".join(faults), EXAMPLES)
    return checked


def group_refusal(group: Object, controller_namespace: str, linkerd_namespace: str) -> str | None:
    """The reason why a group is not accepted, by its condition, its namespace or its spec; None if there is none."""
    # Kubernetes 1.30 writes no condition of a group that is older than a rule of its definition.
    accepted = condition_of(group, "Accepted")
    if accepted is not None and not accepted.status:
        return accepted.message
    namespace = group["metadata"]["namespace"]
    if (why := namespace_fault(namespace, controller_namespace, linkerd_namespace)) is not None:
        return f"namespace {namespace} {why}"
    try:
        checked_spec(group["metadata"]["name"], mapping_in(group, "spec"))
    except UsageError as problem:
        return problem.message
    return None


def merge_spec(options: Object, found: Mapping[str, Any]) -> Object:
    """A group's spec with the options' part replaced; labels that the options omit become None, which removes them."""
    spec = {**found, **options}
    if "labels" in options:
        spec["labels"] = {**dict.fromkeys(found.get("labels") or {}), **options["labels"]}
    return spec


def read_port(text: str) -> Object:
    """`8080`, or `name=http,port=8080,opaque`. Raises ValueError."""
    if text.isascii() and text.isdecimal():
        return {"name": text, "port": _port_number(text)}
    port: Object = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key == "opaque" and value in ("", "true"):
            port["opaque"] = True
        elif key == "name" and is_dns_label(value):
            port["name"] = value
        elif key == "port":
            port["port"] = _port_number(value)
        else:
            raise ValueError(f"--port {text}: {part!r} is none of name=NAME, port=NUMBER, opaque")
    if "port" not in port:
        raise ValueError(f"--port {text}: port=NUMBER was expected")
    return {"name": str(port["port"]), **port}


def read_probe(text: str) -> Object:
    """`8080`, or `port=8080,every=5s,timeout=2s,failures=3`. Raises ValueError."""
    probe: Object = {"kind": "tcp"}
    for key, value in _pairs("--probe", f"port={text}" if text.isdecimal() else text):
        if key == "port":
            probe["port"] = _port_number(value, "--probe")
        elif key in ("every", "timeout"):
            probe[key] = _read_duration(f"--probe {key}", value)
        elif key == "failures" and value.isdecimal() and int(value) > 0:
            probe["failures"] = int(value)
        else:
            raise ValueError(f"--probe {text}: {key}={value} is none of port=, every=, timeout=, failures=")
    if "port" not in probe:
        raise ValueError(f"--probe {text}: port=NUMBER was expected")
    return probe


def read_failure(text: str) -> Object:
    """`after=30s,outbound=open,inbound=closed`, or some of it. Raises ValueError."""
    failure: Object = {}
    for key, value in _pairs("--failure", text):
        if key == "after":
            failure[key] = _read_duration("--failure after", value)
        elif key in ("outbound", "inbound") and value in ("open", "closed"):
            failure[key] = value
        else:
            raise ValueError(f"--failure {text}: {key}={value} is none of after=TIME, outbound|inbound=open|closed")
    return failure


def read_label(text: str) -> tuple[str, str]:
    """`key=value`. Raises ValueError."""
    key, sign, value = text.partition("=")
    if not sign or not is_label_key(key) or not is_label_value(value):
        raise ValueError(f"--label {text}: KEY=VALUE was expected, as Kubernetes writes labels")
    if is_our_label(key):
        raise ValueError(f"--label {text}: labels of exclave.dev are the controller's to write")
    return key, value


def labels_of(name: str, spec: GroupSpec) -> dict[str, str]:
    """The labels of its ExternalWorkloads, as far as the group decides them."""
    return {**spec.labels, GROUP_LABEL: name}


def selecting(services: Iterable[Object], labels: Mapping[str, str]) -> list[Object]:
    """The Services whose selector matches these labels."""
    return [service for service in services if _selects(service, labels)]


def selects_group(service: Object, group: Object) -> bool:
    """True if a Service selects the machines of a WorkloadGroup."""
    labels = mapping_in(mapping_in(group, "spec"), "labels")
    return _selects(service, {**labels, GROUP_LABEL: group["metadata"]["name"]})


def group_warnings(
    name: str,
    spec: GroupSpec,
    groups: Sequence[Object],
    services: Sequence[Object],
    pods: Sequence[Object],
    *,
    opaque_ports: str | None,
) -> list[str]:
    """Warnings about a group. All objects are those of the group's namespace.

    `opaque_ports`: Linkerd's own list, if known.
    """
    labels = labels_of(name, spec)
    found = selecting(services, labels)
    others = [group for group in groups if group["metadata"]["name"] != name]
    return [
        *(line for service in found for line in _service_warnings(service, name, spec, pods)),
        *(
            f"{one.problem}; to do: {one.remedy}"
            for service in found
            if opaque_ports is not None
            for one in opaque_mismatches(service, name, spec.ports, opaque_ports)
        ),
        *_neighbour_warnings(name, spec, others, found),
        *_account_warnings(spec.service_account, pods),
        *_label_warnings(name, spec),
    ]


def _service_warnings(service: Object, name: str, spec: GroupSpec, pods: Sequence[Object]) -> Iterable[str]:
    title = f"Service {service['metadata']['name']}"
    names = [key for port in spec.ports for key in (port.port, port.name)]
    spec_of_service = mapping_in(service, "spec")
    for port in mappings_in(spec_of_service, "ports"):
        target = port.get("targetPort") or port.get("port")
        if target not in names:
            yield (
                f"{title} sends to port {target}, which group {name} does not serve: its members get nothing from it; "
                f"add --port {target}"
            )
    if spec_of_service.get("clusterIP") == "None":
        yield (
            f"{title} is headless and selects group {name}: one request through the mesh to a member's own name in it "
            "crashes Linkerd's destination controller; give the Service a cluster IP, or a selector of pods only"
        )
    marks = service["metadata"].get("labels") or {}
    if any(mark in marks for mark in _MIRRORED):
        yield (
            f"{title} is mirrored between clusters and selects group {name}: virtual machines in it may crash the "
            "other cluster's controller; use a Service of its own for the group"
        )
    count = sum(_selects(service, pod["metadata"].get("labels") or {}) for pod in pods)
    if count:
        yield f"{title} selects group {name} and {_pods(count)}: they share its traffic; if not meant, use other labels"


def _neighbour_warnings(name: str, spec: GroupSpec, others: Sequence[Object], found: list[Object]) -> Iterable[str]:
    for other in others:
        title = other["metadata"]["name"]
        if account_of(other) == spec.service_account:
            yield (
                f"groups {name} and {title} share ServiceAccount {spec.service_account}: policies cannot tell their "
                "members apart, and either may be taken for the other"
            )
        labels = mapping_in(mapping_in(other, "spec"), "labels")
        both = [one["metadata"]["name"] for one in found if selects_group(one, other)]
        if both:
            yield f"Service {', '.join(both)} selects groups {name} and {title}: they share its traffic"
        elif (
            labels and spec.labels and (labels.items() <= spec.labels.items() or spec.labels.items() <= labels.items())
        ):
            yield f"the labels of groups {name} and {title} overlap: a Service that selects one may select both"


def _account_warnings(account: str, pods: Sequence[Object]) -> Iterable[str]:
    count = sum(mapping_in(pod, "spec").get("serviceAccountName", "default") == account for pod in pods)
    if count:
        yield (
            f"ServiceAccount {account} is used by {_pods(count)}: the group's machines get the same identity, and "
            "whatever policies and RBAC let these pods do; name one of its own: --service-account"
        )


def _label_warnings(name: str, spec: GroupSpec) -> Iterable[str]:
    if found := [key for key in spec.labels if key.partition("/")[0].endswith("linkerd.io")]:
        yield (
            f"group {name} has labels of Linkerd's own, {', '.join(found)}: its policies and commands may take the "
            "members for a part of Linkerd; use other labels"
        )


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def _selects(service: Object, labels: Mapping[str, str]) -> bool:
    spec = mapping_in(service, "spec")
    selector, is_named = mapping_in(spec, "selector"), spec.get("type") == "ExternalName"
    return bool(selector) and not is_named and selector.items() <= labels.items()


def _pairs(option: str, text: str) -> Iterable[tuple[str, str]]:
    for part in text.split(","):
        key, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"{option} {text}: KEY=VALUE was expected, found {part!r}")
        yield key, value


def _read_duration(option: str, text: str) -> str:
    try:
        return format_duration(parse_duration(text))
    except ValueError as problem:
        raise ValueError(f"{option}: {problem}") from None


def _port_number(text: str, option: str = "--port") -> int:
    return _number(text, option, 65535)


def _number(text: str, option: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= most:
        raise ValueError(f"{option}: a number from 1 to {most} was expected, found {text!r}")
    return int(text)


def _attempt(mistakes: list[str], read: Any, text: str) -> Any:
    try:
        return read(text)
    except ValueError as problem:
        mistakes.append(str(problem))
        return None


_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "network": ("networks", str),
    "port": ("ports", read_port),
    "label": ("labels", read_label),
    "probe": ("probes", read_probe),
    "failure": ("failure", read_failure),
    "certificate_lifetime": ("certificateLifetime", partial(_read_duration, "--certificate-lifetime")),
    "forget_after": ("forgetAfter", partial(_read_duration, "--forget-after")),
    "service_account": ("serviceAccount", str),
    "capture": ("capture", str),
    "inbound_policy": ("inboundPolicy", str),
    "proxy_cores": ("proxyCores", partial(_number, option="--proxy-cores", most=MOST_CORES)),
}
"""The key in a group's spec that each option of `group create` sets, and what reads its text or each of its texts."""
