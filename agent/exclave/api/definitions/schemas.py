"""Schemas of exclave's own two kinds. Pure.

The definitions in `crds` contain them, and the sandbox's API server checks with them. The limits prevent that one
machine fills etcd.
"""

from exclave.kit.formats.kubernetes import (
    BOOLEAN,
    DNS_LABEL,
    INTEGER,
    MOST_LABEL,
    NOT_EMPTY,
    STRING,
    Schema,
    immutable,
    keyed,
    list_of,
    map_of,
    object_of,
    one_of,
)

LONGEST_CSR = 4096
LONGEST_FACT = 256
LONGEST_FACT_NAME = 64
MOST_FACTS = 64

DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$", "maxLength": 32}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
SHORT: Schema = {"type": "string", "maxLength": LONGEST_FACT}
LABEL: Schema = {"type": "string", "pattern": f"^{DNS_LABEL}$", "maxLength": MOST_LABEL}

CONDITION = object_of(
    ("type", "status"),
    type={"type": "string", "maxLength": 316, "minLength": 1},
    status=one_of("True", "False", "Unknown"),
    reason={"type": "string", "maxLength": 1024, "pattern": r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    message={"type": "string", "maxLength": 32768},
    lastTransitionTime=STRING,
    lastProbeTime=STRING,
    observedGeneration=INTEGER,
)
CONDITIONS = list_of(CONDITION, maxItems=16)

_PROBE = object_of(
    ("port",),
    kind=one_of("tcp"),
    port=PORT,
    every=DURATION,
    timeout=DURATION,
    failures={"type": "integer", "minimum": 1},
)
_GROUP_SPEC = object_of(
    ("networks",),
    serviceAccount=LABEL,
    labels=map_of({"type": "string", "maxLength": 63}),
    ports=list_of(object_of(("port",), name=LABEL, port=PORT, opaque=BOOLEAN), maxItems=100),
    networks=list_of({"type": "string", "minLength": 1, "maxLength": 64}, minItems=1, maxItems=100),
    certificateLifetime=DURATION,
    capture=one_of("cluster", "all", "none"),
    inboundPolicy=STRING,
    probes=list_of(_PROBE, maxItems=100),
    failure=object_of(after=DURATION, outbound=one_of("open", "closed"), inbound=one_of("open", "closed")),
    forgetAfter=DURATION,
)
WORKLOAD_GROUP: Schema = object_of(("spec",), spec=_GROUP_SPEC, status=object_of(conditions=CONDITIONS))

_MEMBER_SPEC = object_of(
    ("nonce", "machineHash", "deliveryKey"),
    nonce=immutable({"type": "string", "minLength": 1, "maxLength": 64}),
    machineHash=immutable({"type": "string", "pattern": "^[0-9a-f]{16}$"}),
    deliveryKey=immutable({"type": "string", "minLength": 1, "maxLength": 1024}),
    facts={**keyed(map_of(SHORT), LONGEST_FACT_NAME), "maxProperties": MOST_FACTS},
    addresses=list_of({"type": "string", "minLength": 1, "maxLength": 64}, maxItems=1),
    dataPath=one_of("meshed", "outbound-open", "down"),
    dataPathReason=SHORT,
    csr={"type": "string", "maxLength": LONGEST_CSR},
    serving=BOOLEAN,
    loaded=object_of(anchors=SHORT, issuer=SHORT, settings=SHORT, proxy=SHORT, agent=SHORT),
)
_MEMBER_STATUS = object_of(
    conditions=CONDITIONS,
    certificate=object_of(("csrSha256", "chain", "notAfter"), csrSha256=SHA256, chain=NOT_EMPTY, notAfter=NOT_EMPTY),
    externalWorkload=object_of(uid=STRING, ports=list_of(INTEGER, maxItems=100)),
    settings=STRING,
    cordoned=BOOLEAN,
    issued=list_of(object_of(serial=STRING, keySha256=STRING, time=STRING), maxItems=5),
    credential=STRING,
)
MEMBER: Schema = object_of(("spec",), spec=_MEMBER_SPEC, status=_MEMBER_STATUS)
