"""Kubernetes' role-based access control (RBAC), as an index of roles and bindings. Pure.

Rules: only a binding allows something; `system:masters` may do everything. A decision reads the bindings of the
caller's own name and groups, and no others.
Source: k8s.io/kubernetes plugin/pkg/auth/authorizer/rbac and pkg/registry/rbac/validation.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from exclave_sandbox.apiserver.messages import Object

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"


@dataclass(frozen=True)
class User:
    """A caller as RBAC sees it."""

    name: str
    groups: tuple[str, ...] = ()


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


def account_user(namespace: str, name: str) -> User:
    """The user of a ServiceAccount's token."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    return User(f"system:serviceaccount:{namespace}:{name}", groups)


@dataclass(frozen=True)
class Attempt:
    """A request to decide on: `resource` with its subresource ("members/status"); "" without namespace or name."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def refused(self, user: User) -> str:
        """The reason of a refusal, in kube-apiserver's words."""
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        what = f'resource "{self.resource}" in API group "{self.group}"'
        return f'User "{user.name}" cannot {self.verb} {what} {where}'


_Key = tuple[str, str]  # namespace ("" for what is cluster-wide) and name


@dataclass(frozen=True)
class _Binding:
    namespace: str  # "" when it binds in the whole cluster
    role: _Key
    subjects: tuple[str, ...]


class AccessRules:
    """All roles and bindings. `update` is called with each change."""

    def __init__(self) -> None:
        self._rules: dict[_Key, tuple[Object, ...]] = {}
        self._bindings: dict[_Key, _Binding] = {}
        self._of_subject: defaultdict[str, dict[_Key, None]] = defaultdict(dict)

    def update(self, kind: str, namespace: str, name: str, object_: Object | None) -> None:
        """Store a Role, ClusterRole or a binding of either; None removes it."""
        key = (namespace, name)
        if kind in ("Role", "ClusterRole"):
            if object_ is None:
                self._rules.pop(key, None)
            else:
                self._rules[key] = tuple(object_.get("rules") or ())
            return
        former = self._bindings.pop(key, None)
        for subject in former.subjects if former else ():
            self._of_subject[subject].pop(key, None)
        if object_ is None:
            return
        role = object_["roleRef"]
        found = _Binding(
            namespace,
            (namespace if role["kind"] == "Role" else "", role["name"]),
            tuple(_subject(subject, namespace) for subject in object_.get("subjects") or ()),
        )
        self._bindings[key] = found
        for subject in found.subjects:
            self._of_subject[subject][key] = None

    def allows(self, user: User, attempt: Attempt) -> bool:
        """Whether a binding of this user or of one of its groups allows it."""
        if MASTERS in user.groups:
            return True
        return any(_permits(rule, attempt) for rule in self._rules_for(user, attempt.namespace))

    def _rules_for(self, user: User, namespace: str) -> Iterator[Object]:
        for subject in (f"User {user.name}", *(f"Group {group}" for group in user.groups)):
            for key in self._of_subject.get(subject, ()):
                binding = self._bindings[key]
                if binding.namespace in ("", namespace):
                    yield from self._rules.get(binding.role, ())


def _subject(subject: Object, namespace: str) -> str:
    if subject["kind"] == "ServiceAccount":
        return f"User {account_user(subject.get('namespace') or namespace, subject['name']).name}"
    return f"{subject['kind']} {subject['name']}"


def _permits(rule: Object, attempt: Attempt) -> bool:
    # resourceNames never allow a create, whose name the authorizer is not given, and a list or watch only where its
    # field selector names the object.
    names = rule.get("resourceNames")
    return (
        _matches(rule.get("verbs"), attempt.verb)
        and _matches(rule.get("apiGroups"), attempt.group)
        and _covers(rule.get("resources") or [], attempt.resource)
        and (not names or (attempt.name != "" and attempt.name in names))
    )


def _matches(allowed: list[str] | None, wanted: str) -> bool:
    return allowed is not None and ("*" in allowed or wanted in allowed)


def _covers(resources: list[str], wanted: str) -> bool:
    if "*" in resources or wanted in resources:
        return True
    _, slash, subresource = wanted.partition("/")
    return bool(slash) and f"*/{subresource}" in resources
