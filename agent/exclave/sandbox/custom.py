"""Schemas of the custom resources: exclave's own two, and Linkerd's ExternalWorkload. Pure.

ExternalWorkload's is that of Linkerd's chart (linkerd-crds, v1beta1). Our two say what the contract between agent and
controller says; a field that is not here is refused, so that a misspelt one is met in a test and not in a cluster.
"""

from collections.abc import Iterator

from exclave.sandbox.refusal import Cause, Object
from exclave.sandbox.schema import ANY_OBJECT, BOOLEAN, INTEGER, STRING, Schema, list_of, object_of

MOST_GROUP_NAME = 40
"""Characters of a group's name: what is left of a DNS label after a token's id and a slot."""


def _enum(*values: str) -> Schema:
    return {"type": "string", "enum": values}


NOT_EMPTY: Schema = {"type": "string", "minLength": 1}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
NAME_253: Schema = {"type": "string", "minLength": 1, "maxLength": 253}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
CONDITION = object_of(
    ("type", "status"),
    type={"type": "string", "maxLength": 316, "minLength": 1},
    status=_enum("True", "False", "Unknown"),
    reason={"type": "string", "maxLength": 1024, "pattern": r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    message={"type": "string", "maxLength": 32768},
    lastTransitionTime=STRING,
    lastProbeTime=STRING,
    observedGeneration=INTEGER,
)
CONDITIONS = list_of(CONDITION)

GROUP_SPEC = object_of(
    ("networks",),
    serviceAccount={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
    labels=ANY_OBJECT,
    ports=list_of(object_of(("port",), name=STRING, port=PORT, opaque=BOOLEAN)),
    networks=list_of(NOT_EMPTY, minItems=1),
    certificateLifetime=DURATION,
    capture=_enum("cluster", "all", "none"),
    inboundPolicy=STRING,
    probes=list_of(
        object_of(
            ("port",),
            kind=_enum("tcp"),
            port=PORT,
            every=DURATION,
            timeout=DURATION,
            failures={"type": "integer", "minimum": 1},
        )
    ),
    failure=object_of(after=DURATION, outbound=_enum("open", "closed"), inbound=_enum("open", "closed")),
    forgetAfter=DURATION,
)
WORKLOAD_GROUP = object_of(("spec",), spec=GROUP_SPEC, status=object_of(conditions=CONDITIONS))

MEMBER_SPEC = object_of(
    ("nonce", "machineHash", "deliveryKey"),
    nonce=NOT_EMPTY,
    machineHash={"type": "string", "pattern": "^[0-9a-f]{16}$"},
    deliveryKey=NOT_EMPTY,
    facts=ANY_OBJECT,
    addresses=list_of(NOT_EMPTY, maxItems=1),
    dataPath=_enum("meshed", "outbound-open", "down"),
    csr={"type": "string", "maxLength": 4096},
    serving=BOOLEAN,
    loaded=object_of(anchors=STRING, issuer=STRING, settings=STRING, proxy=STRING, agent=STRING),
)
MEMBER_STATUS = object_of(
    conditions=CONDITIONS,
    certificate=object_of(("csrSha256", "chain", "notAfter"), csrSha256=SHA256, chain=NOT_EMPTY, notAfter=NOT_EMPTY),
    externalWorkload=object_of(uid=STRING, ports={"type": "array"}),
    settings=STRING,
    cordoned=BOOLEAN,
    issued=list_of(ANY_OBJECT, maxItems=5),
    credential=STRING,
)
MEMBER = object_of(("spec",), spec=MEMBER_SPEC, status=MEMBER_STATUS)

EXTERNAL_WORKLOAD = object_of(
    ("spec",),
    spec=object_of(
        ("meshTLS",),
        meshTLS=object_of(("identity", "serverName"), identity=NAME_253, serverName=NAME_253),
        ports=list_of(object_of(("port",), name=STRING, port=PORT, protocol=STRING)),
        workloadIPs=list_of(object_of(ip=STRING), maxItems=2),
    ),
    status=object_of(conditions=CONDITIONS),
)

IMMUTABLE_OF_MEMBER = ("nonce", "machineHash", "deliveryKey")


def check_group(group: Object) -> Iterator[Cause]:
    """A group's name is one label and short, because members' and machine accounts' names are built from it."""
    name = group["metadata"]["name"]
    if "." in name or len(name) > MOST_GROUP_NAME:
        wanted = f"a group's name is one DNS label of at most {MOST_GROUP_NAME} characters"
        yield Cause("metadata.name", f'Invalid value: "{name}": {wanted}')


def check_member_change(old: Object, new: Object) -> Iterator[Cause]:
    """What a machine said of itself when it joined stays said."""
    for name in IMMUTABLE_OF_MEMBER:
        if old["spec"].get(name) != new["spec"].get(name):
            yield Cause(f"spec.{name}", "Invalid value: field is immutable")
