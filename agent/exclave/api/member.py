"""A Member as a JSON tree, and its heartbeat: how machine and controller create, read and change it. Pure.

A missing or malformed key is read as absent, since older or newer versions may have written the object.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.names import RENEW
from exclave.api.requests import LEASES, MEMBERS, Object, Request, patch
from exclave.kit.formats.times import rfc3339, rfc3339_micro

DataPath = Literal["meshed", "outbound-open", "down"]

RenewalResult = Literal["renewed", "too-soon", "failed"]


ADMITTED, REGISTERED, LIVE = "Admitted", "Registered", "Live"
READY_AWAITED = "ReadyAwaited"  # reason of Registered: the machine must report condition Ready again
CLONED = "Cloned"  # condition of a Member that two machines have used; others lack it
CERTIFIED = "Certified"  # condition of a Member whose CSR was refused once; others lack it

READY = "Ready"

MAX_RENEWAL_REQUEST = 64  # characters of a request for a renewal; a longer one is ignored
MAX_RENEWAL_MESSAGE = 256  # characters of the answer's message


@dataclass(frozen=True)
class Condition:
    """A Kubernetes condition; `status` is True only if the object has "True"."""

    type: str
    status: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Certificate:
    """A certificate: the sha256 (hex) of its CSR's PEM, its chain as PEM, its end (RFC 3339)."""

    csr_sha256: str
    chain: str
    not_after: str


@dataclass(frozen=True)
class Issued:
    """A certificate signed for this member: its serial (hex), sha256 (hex) of its key, its time (RFC 3339)."""

    serial: str
    key_sha256: str
    time: str


@dataclass(frozen=True)
class Renewal:
    """A machine's answer to an admin's request to renew its certificate: result (RenewalResult), text for a person."""

    request: str
    result: str
    message: str = ""


@dataclass(frozen=True)
class MemberView:
    """A Member's fields. `credential` is encrypted to the delivery key."""

    name: str
    uid: str = ""
    resource_version: str = ""
    nonce: str = ""
    machine_hash: str = ""
    delivery_key: str = ""
    csr: str = ""
    serving: bool = False
    data_path: str = ""
    data_path_reason: str = ""
    addresses: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    loaded: Mapping[str, str] = field(default_factory=dict)
    renewal_request: str = ""
    renewal: Renewal | None = None
    deleting: bool = False
    finalizers: tuple[str, ...] = ()
    admitted: Condition | None = None
    registered: Condition | None = None
    live: Condition | None = None
    certificate: Certificate | None = None
    issued: tuple[Issued, ...] = ()
    credential: str | None = field(default=None, repr=False)
    workload_uid: str | None = None
    workload_ports: tuple[int, ...] = ()
    settings: str | None = None
    cordoned: bool = False
    cloned: Condition | None = None
    certified: Condition | None = None
    mark: str = ""
    live_since: str = ""  # when `live` changed last


def member_object(
    namespace: str,
    name: str,
    *,
    nonce: str,
    machine_hash: str,
    delivery_key: str,
    csr: str,
    addresses: Sequence[str],
    facts: Mapping[str, str],
) -> Object:
    """A Member as a machine creates it: not serving, its data path down. `delivery_key` is SPKI PEM, `csr` PEM."""
    return {
        "apiVersion": MEMBERS.api_version,
        "kind": MEMBERS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nonce": nonce,
            "machineHash": machine_hash,
            "deliveryKey": delivery_key,
            "csr": csr,
            "addresses": list(addresses),
            "facts": dict(facts),
            "dataPath": "down",
            "serving": False,
        },
    }


def view_member(found: Object) -> MemberView:
    """Read a Member."""
    metadata, spec, status = mapping_in(found, "metadata"), mapping_in(found, "spec"), mapping_in(found, "status")
    conditions = {condition.type: condition for condition in read_conditions(status.get("conditions"))}
    workload = mapping_in(status, "externalWorkload")
    return MemberView(
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        resource_version=_text(metadata, "resourceVersion"),
        nonce=_text(spec, "nonce"),
        machine_hash=_text(spec, "machineHash"),
        delivery_key=_text(spec, "deliveryKey"),
        csr=_text(spec, "csr"),
        serving=spec.get("serving") is True,
        data_path=_text(spec, "dataPath"),
        data_path_reason=_text(spec, "dataPathReason"),
        addresses=_texts(spec.get("addresses")),
        facts=_words(mapping_in(spec, "facts")),
        loaded=_words(mapping_in(spec, "loaded")),
        renewal_request=_text(mapping_in(metadata, "annotations"), RENEW),
        renewal=_renewal(mapping_in(spec, "renewal")),
        deleting=bool(metadata.get("deletionTimestamp")),
        finalizers=_texts(metadata.get("finalizers")),
        admitted=conditions.get(ADMITTED),
        registered=conditions.get(REGISTERED),
        live=conditions.get(LIVE),
        certificate=_certificate(mapping_in(status, "certificate")),
        issued=_issued(status.get("issued")),
        credential=_text(status, "credential") or None,
        workload_uid=_text(workload, "uid") or None,
        workload_ports=_ports(workload.get("ports")),
        settings=_text(status, "settings") or None,
        cordoned=status.get("cordoned") is True,
        cloned=conditions.get(CLONED),
        certified=conditions.get(CERTIFIED),
        mark=_text(status, "mark"),
        live_since=transition_time(status, LIVE),
    )


def transition_time(status: Mapping[str, Any], kind: str) -> str:
    """The time of the last change of the condition of this type, as it is in a status; "" without one. Never raises."""
    times = (_text(one, "lastTransitionTime") for one in mappings_in(status, "conditions") if one.get("type") == kind)
    return next(times, "")


def condition_of(found: Object | None, kind: str) -> Condition | None:
    """The condition of this type of an object; None if it has none. Never raises."""
    return next((one for one in conditions_of(found) if one.type == kind), None)


def conditions_of(found: Object | None) -> list[Condition]:
    """The conditions in the status of an object, which may be malformed."""
    return read_conditions(mapping_in(found, "status").get("conditions"))


def read_conditions(found: object) -> list[Condition]:
    """The conditions of a status; malformed items are left out."""
    return [
        Condition(_text(one, "type"), one.get("status") == "True", _text(one, "reason"), _text(one, "message"))
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict) and _text(one, "type")
    ]


def make_condition(condition: Condition, now: float) -> Object:
    """A condition as the API server stores it; `now` (epoch seconds) becomes its transition time."""
    return {
        "type": condition.type,
        "status": "True" if condition.status else "False",
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": rfc3339(now),
    }


def with_condition(conditions: Iterable[Object], condition: Condition, now: float) -> list[Object]:
    """The conditions with this one replaced or added. Its time changes only together with its status."""
    made = make_condition(condition, now)
    others = []
    for one in conditions:
        if one.get("type") != condition.type:
            others.append(one)
        elif one.get("status") == made["status"] and one.get("lastTransitionTime"):
            made["lastTransitionTime"] = one["lastTransitionTime"]
    return [*others, made]


def heartbeat_request(namespace: str, member: str, holder: str, now: float) -> Request:
    """A renewal of a member's Lease. Source: LeaseSpec in k8s.io/api/coordination/v1/types.go."""
    return patch(LEASES, namespace, member, {"spec": {"holderIdentity": holder, "renewTime": rfc3339_micro(now)}})


def renewal_fields(request: str, result: RenewalResult, message: str = "") -> Object:
    """The field of the spec with a machine's answer to a request for a renewal."""
    return {"renewal": {"request": request, "result": result, "message": message[:MAX_RENEWAL_MESSAGE]}}


def _renewal(tree: Mapping[str, Any]) -> Renewal | None:
    request = _text(tree, "request")
    return Renewal(request, _text(tree, "result"), _text(tree, "message")) if request else None


def _certificate(tree: Mapping[str, Any]) -> Certificate | None:
    chain = _text(tree, "chain")
    return Certificate(_text(tree, "csrSha256"), chain, _text(tree, "notAfter")) if chain else None


def _issued(found: object) -> tuple[Issued, ...]:
    listed = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return tuple(Issued(_text(one, "serial"), _text(one, "keySha256"), _text(one, "time")) for one in listed)


def _ports(found: object) -> tuple[int, ...]:
    """Port numbers, either plain or as an ExternalWorkload's `{port}`."""
    listed = found if isinstance(found, list) else []
    ports = [one.get("port") if isinstance(one, dict) else one for one in listed]
    return tuple(port for port in ports if isinstance(port, int) and not isinstance(port, bool))


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    return value if isinstance(value, str) else ""


def _words(found: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _texts(found: object) -> tuple[str, ...]:
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()
