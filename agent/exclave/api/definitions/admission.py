"""The admission policies: what RBAC cannot express about names, sizes and metadata. Pure.

Policies have no parameters and fail closed. The first is for every account in a namespace that ends in `-vms`: a join
token creates Members of its own names, and a machine writes objects of its own name. The second is for the controller,
which writes objects with machines' names only. Messages are for people, and the agent shows them.
CEL: without `has` an absent field is an error, which denies everything; `.?` compares presence, too; CEL has no clock,
and reads the labels of the object's namespace, not of the caller's.
"""

from collections.abc import Iterable
from typing import Any

from exclave.api.names import ACCOUNTS_LABEL, ADMISSION_POLICY_NAMES, CONTROLLER, ELECTION, GROUPS_LABEL
from exclave.api.requests import Object

MACHINES_POLICY, CONTROLLER_POLICY = ADMISSION_POLICY_NAMES

API_AUDIENCE = "https://kubernetes.default.svc"
LONGEST_CREDENTIAL = 30 * 86400
MOST_HOLDER, MOST_MESSAGE = 256, 1024
"""Characters of a Lease's holder, and of a condition's message."""

_NAME = "[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?"
_TAIL = "[a-z0-9]{5}-[1-9][0-9]{0,2}"

_MINTS = "has(request.subResource) && request.subResource == 'token'"

_VARIABLES = {
    "home": "request.userInfo.username.split(':')[2]",
    "account": "request.userInfo.username.split(':')[3]",
    "wellFormed": f"variables.account.matches('^{_NAME}[.](join|rejoin|vm)[.]{_TAIL}$')",
    "isJoin": "variables.wellFormed && variables.account.split('.')[1] == 'join'",
    "isAgain": "variables.wellFormed && variables.account.split('.')[1] == 'rejoin'",
    "isMachine": "variables.wellFormed && variables.account.split('.')[1] == 'vm'",
    "marks": "namespaceObject.metadata.?labels.orValue({})",
    # A namespace's label names the namespace whose accounts are machines: itself, or the one beside it.
    "isHome": f"(request.namespace == variables.home && '{ACCOUNTS_LABEL}' in variables.marks) || "
    f"('{GROUPS_LABEL}' in variables.marks && variables.marks['{GROUPS_LABEL}'] == variables.home)",
    # Where the labels do not name us, an account belongs to somebody whose namespace only ends like ours.
    "isStranger": "!variables.wellFormed && !variables.isHome && request.resource.group != 'exclave.dev'",
    "group": "variables.account.split('.')[0]",
    "tail": "variables.wellFormed ? variables.account.split('.')[2] : 'none-0'",
    "isToken": _MINTS,
    "isStatus": "has(request.subResource) && request.subResource == 'status'",
    "name": "request.operation == 'DELETE' || variables.isToken ? request.name : object.metadata.name",
    "parts": "variables.name.split('-')",
    "slot": "variables.name.matches('-[1-9][0-9]{0,2}$') ? int(variables.parts[size(variables.parts) - 1]) : 1000",
}

_SAME = " && ".join(
    f"object.metadata.?{key} == oldObject.metadata.?{key}"
    for key in ("finalizers", "ownerReferences", "labels", "annotations")
)
_NONE = " && ".join(
    f"!has(object.metadata.{key})" for key in ("finalizers", "ownerReferences", "labels", "annotations", "generateName")
)
_MODEST_LEASE = (
    "request.resource.resource != 'leases' || request.operation == 'DELETE' || "
    f"(object.spec.?holderIdentity.orValue('').size() <= {MOST_HOLDER} && !has(object.spec.strategy) && "
    "!has(object.spec.preferredHolder) && !has(object.spec.leaseDurationSeconds))"
)
_MODEST_STATUS = (
    "request.resource.resource != 'externalworkloads' || request.operation == 'DELETE' || "
    "(object.?status.conditions.orValue([]).size() <= 1 && object.?status.conditions.orValue([]).all(condition, "
    f"condition.type == 'Ready' && condition.?message.orValue('').size() <= {MOST_MESSAGE}))"
)
_MODEST_TOKEN = (
    f"object.spec.?expirationSeconds.orValue(0) <= {LONGEST_CREDENTIAL} && "
    f"object.spec.?audiences.orValue([]) == ['{API_AUDIENCE}'] && object.spec.?boundObjectRef.orValue(null) == null"
)

_VALIDATIONS = (
    (
        "variables.wellFormed",
        "an account in this namespace is named <group>.join.<id>-<uses>, <group>.rejoin.<id>-<number> or "
        "<group>.vm.<id>-<number>, and this one is not: ask the admin for a join token",
    ),
    (
        "variables.isToken ? request.namespace == variables.home : request.namespace + '-vms' == variables.home",
        "a machine stays in the namespace of its group",
    ),
    (
        "!variables.isJoin || (request.operation == 'CREATE' && request.resource.resource == 'members' && "
        "!variables.isStatus && variables.name.startsWith(variables.group + '-' + variables.tail.split('-')[0] + '-') "
        f"&& variables.name.matches('^{_NAME}-{_TAIL}$') && variables.slot <= int(variables.tail.split('-')[1]))",
        "a join token makes the members of its own names, as many as it has uses, and nothing else: ask the admin for "
        "another token",
    ),
    (
        "!variables.isAgain || (request.operation == 'CREATE' && request.resource.resource == 'members' && "
        "!variables.isStatus && variables.name == variables.group + '-' + variables.tail)",
        "a token for one member makes this member, and nothing else: ask the admin for another token",
    ),
    (
        "!variables.isMachine || (variables.isToken ? variables.name == variables.account : "
        "variables.name == variables.group + '-' + variables.tail)",
        "a machine touches only what bears its own name",
    ),
    (
        "!variables.isMachine || variables.isToken || request.operation in ['UPDATE', 'DELETE']",
        "a machine creates nothing but its own tokens",
    ),
    (
        f"!variables.isToken || ({_MODEST_TOKEN})",
        "a machine's token is for the API server only, bound to no object, and lives 30 days at most",
    ),
    (f"request.operation != 'UPDATE' || ({_SAME})", "a machine changes no metadata"),
    (f"request.operation != 'CREATE' || variables.isToken || ({_NONE})", "a machine writes no metadata"),
    (_MODEST_LEASE, f"a heartbeat names its holder in at most {MOST_HOLDER} characters, and nothing more"),
    (
        _MODEST_STATUS,
        f"a machine writes one condition, Ready, with a message of at most {MOST_MESSAGE} characters",
    ),
)


GROUP_LABEL, PORTS_FINALIZER = "exclave.dev/group", "exclave.dev/ports"
"""An ExternalWorkload is a group's if it has this label, this finalizer, or a group as its owner."""

_LIMIT_VARIABLES = {
    "kind": "request.resource.resource",
    "isToken": _MINTS,
    "isStatus": "has(request.subResource) && request.subResource == 'status'",
    "name": "request.operation == 'CREATE' && !variables.isToken ? object.metadata.name : request.name",
    "isMachines": f"variables.name.matches('^{_NAME}-{_TAIL}$')",
}


def _limits(namespace: str) -> tuple[tuple[str, str], ...]:
    """The validations for the controller, which runs in this namespace."""
    account = f"variables.name.matches('^{_NAME}[.]vm[.]{_TAIL}$')"
    expired = f"variables.name.matches('^{_NAME}[.](join|rejoin|vm)[.]{_TAIL}$')"
    was_ours, is_ours = _is_of_a_group("oldObject"), _is_of_a_group("object")
    return (
        (
            f"!variables.isToken || (request.namespace.endsWith('-vms') && {account} && ({_MODEST_TOKEN}))",
            "the controller mints tokens of machines only, for the API server, of 30 days at most",
        ),
        (
            "request.resource.group != 'exclave.dev' || request.operation != 'UPDATE' || "
            "(object.?spec == oldObject.?spec && object.metadata.?labels == oldObject.metadata.?labels && "
            "object.metadata.?annotations == oldObject.metadata.?annotations)",
            "the controller changes no spec of a group or a member, and no label or annotation",
        ),
        (
            "variables.kind != 'serviceaccounts' || variables.isToken || (request.namespace.endsWith('-vms') && "
            f"(request.operation == 'CREATE' ? {account} : {expired}))",
            "the controller makes accounts of machines only, and removes only theirs and those of join tokens",
        ),
        # Leases of elections and of nodes have a duration; a machine's has none.
        (
            f"variables.kind != 'leases' || (request.namespace == '{namespace}' ? variables.name == '{ELECTION}' : "
            "variables.isMachines && (request.operation != 'DELETE' || !has(oldObject.spec.leaseDurationSeconds)))",
            "the controller touches no Lease but machines' and that of its own election",
        ),
        (
            "variables.kind != 'externalworkloads' || (variables.isMachines && "
            f"(request.operation == 'CREATE' ? {is_ours} : {was_ours}))",
            "the controller touches no ExternalWorkload but those of groups",
        ),
        (
            "variables.kind != 'externalworkloads' || !variables.isStatus || "
            "object.?status.conditions.orValue([]).all(one, one.type != 'Ready' || one.status != 'True')",
            "the controller calls no machine ready: that is for the machine itself to say",
        ),
        (
            f"variables.kind != 'configmaps' || variables.name.matches('^exclave-mesh[.]{_NAME}$')",
            "the controller writes no ConfigMap but the settings of groups",
        ),
    )


def _is_of_a_group(workload: str) -> str:
    metadata = f"{workload}.metadata"
    return (
        f"('{GROUP_LABEL}' in {metadata}.?labels.orValue({{}}) || "
        f"'{PORTS_FINALIZER}' in {metadata}.?finalizers.orValue([]) || "
        f"{metadata}.?ownerReferences.orValue([]).exists(one, one.kind == 'WorkloadGroup'))"
    )


def admission_objects(controller_namespace: str) -> list[Object]:
    """Both policies with their bindings, in the order in which they are installed, before all Roles."""
    machines = (
        "request.userInfo.username.startsWith('system:serviceaccount:') && "
        "request.userInfo.username.split(':')[2].endsWith('-vms')"
    )
    controller = f"request.userInfo.username == 'system:serviceaccount:{controller_namespace}:{CONTROLLER}'"
    machine_rules = [
        _rule("exclave.dev", "members", "members/status", "workloadgroups", "workloadgroups/status"),
        _rule("workload.linkerd.io", "externalworkloads", "externalworkloads/status"),
        _rule("coordination.k8s.io", "leases"),
        _rule("", "serviceaccounts/token"),
    ]
    controller_rules = [
        _rule("exclave.dev", "members", "workloadgroups"),
        _rule("workload.linkerd.io", "externalworkloads", "externalworkloads/status"),
        _rule("coordination.k8s.io", "leases"),
        _rule("", "serviceaccounts", "serviceaccounts/token", "configmaps"),
    ]
    validations = tuple((f"variables.isStranger || ({text})", message) for text, message in _VALIDATIONS)
    return [
        *_policy(MACHINES_POLICY, machines, machine_rules, _VARIABLES, validations),
        *_policy(CONTROLLER_POLICY, controller, controller_rules, _LIMIT_VARIABLES, _limits(controller_namespace)),
    ]


def _policy(
    name: str,
    callers: str,
    rules: list[Object],
    variables: dict[str, str],
    validations: tuple[tuple[str, str], ...],
) -> list[Object]:
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    return [
        {
            **kind,
            "kind": "ValidatingAdmissionPolicy",
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": rules},
                "matchConditions": [{"name": "callers", "expression": callers}],
                "variables": [_named(*one) for one in variables.items()],
                "validations": [{"expression": text, "message": message} for text, message in validations],
            },
        },
        {
            **kind,
            "kind": "ValidatingAdmissionPolicyBinding",
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]


def _named(name: str, expression: str) -> Object:
    return {"name": name, "expression": expression}


def _rule(group: str, *resources: str) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE", "DELETE"],
        "resources": list(resources),
    }


DEFAULTS: dict[str, Any] = {
    "matchPolicy": "Equivalent",
    "namespaceSelector": {},
    "objectSelector": {},
    "scope": "*",
}
"""What API servers add. Source: k8s.io/kubernetes pkg/apis/admissionregistration/v1/defaults.go."""

REMEDY = "an admin installs it again: kubectl exclave upgrade"


def admission_fault(found: Iterable[Object], wanted: Iterable[Object]) -> str | None:
    """What is wrong with the admission policies, for a person; None if nothing."""
    fault = first_fault(found, wanted)
    return fault[1] if fault is not None else None


def first_fault(found: Iterable[Object], wanted: Iterable[Object]) -> tuple[Object, str] | None:
    """The first of the objects that is not as it is wanted, and what is wrong with it; None if there is none."""
    by_name = {_name(one): one for one in found}
    for one in wanted:
        name = _name(one)
        there = by_name.get(name)
        if there is None or there["metadata"].get("deletionTimestamp"):
            return one, f"{name} is missing; {REMEDY}"
        if not _is_same(one["spec"], there.get("spec")):
            return one, f"{name} is not as this version of exclave installs it; {REMEDY}"
    return None


def _name(one: Object) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def _is_same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or not wanted.keys() <= found.keys():
            return False
        added = found.keys() - wanted.keys()
        return all(key in DEFAULTS and found[key] == DEFAULTS[key] for key in added) and all(
            _is_same(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(_is_same, wanted, found))
    return bool(wanted == found)
