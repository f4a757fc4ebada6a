"""Who has rights in a namespace of machines' accounts: exclave alone, or others too. Pure.

Whoever may make tokens there can be any machine of the groups. So a RoleBinding of others counts as a fault, unless an
admin has accepted it by its name, in an annotation of the group.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.names import ADOPTED, CONTROLLER, ISSUER, MACHINES
from exclave.api.requests import Object

MOST_SHOWN = 5  # RoleBindings, or subjects of one, in a text
LONGEST = 100  # characters of a name in a text


_Subject = tuple[str, str | None, str]
"""Kind, namespace, name."""


def foreign_bindings(bindings: Iterable[Object], accounts: str, controller_namespace: str) -> list[Object]:
    """The RoleBindings in namespace `accounts` that exclave does not make, or that others have changed."""
    ours: dict[str, _Subject] = {
        MACHINES: ("Group", None, f"system:serviceaccounts:{accounts}"),
        CONTROLLER: ("ServiceAccount", controller_namespace, CONTROLLER),
    }
    return _without(bindings, ours)


def foreign_to_controller(bindings: Iterable[Object], namespace: str) -> list[Object]:
    """The RoleBindings in the controller's namespace that exclave does not make, or that others have changed."""
    return _without(bindings, dict.fromkeys((CONTROLLER, ISSUER), ("ServiceAccount", namespace, CONTROLLER)))


def _without(bindings: Iterable[Object], ours: Mapping[str, _Subject]) -> list[Object]:
    return [one for one in bindings if _name(one) not in ours or not _gives(one, ours[_name(one)])]


def _gives(binding: Object, subject: _Subject) -> bool:
    """True if it gives the Role of its own name to this subject alone."""
    role = mapping_in(binding, "roleRef")
    subjects = [(one.get("kind"), one.get("namespace"), one.get("name")) for one in mappings_in(binding, "subjects")]
    return (role.get("kind"), role.get("name")) == ("Role", _name(binding)) and subjects in ([], [subject])


def adopted_names(group: Object | None) -> frozenset[str]:
    """The names of the RoleBindings that an admin has accepted for a WorkloadGroup, or for the controller's namespace.

    Never exclave's own, if changed.
    """
    listed = mapping_in(mapping_in(group, "metadata"), "annotations").get(ADOPTED)
    names = listed.split(",") if isinstance(listed, str) else []
    return frozenset(one.strip() for one in names) - {"", MACHINES, CONTROLLER}


def not_adopted(foreign: Iterable[Object], adopted: frozenset[str]) -> list[Object]:
    """The RoleBindings that no admin has accepted."""
    return [one for one in foreign if _name(one) not in adopted]


def adopted_text(foreign: Iterable[Object]) -> str:
    """The annotation's value that accepts these RoleBindings. Exclave's own are put right instead."""
    return ",".join(sorted({_name(one) for one in foreign} - {MACHINES, CONTROLLER}))


def bindings_text(bindings: Sequence[Object]) -> str:
    """Who has which rights, for a person: `RoleBinding ops (ClusterRole admin): Group ops, User eve`."""
    return _few([_binding_text(one) for one in bindings], "; ")


def _binding_text(binding: Object) -> str:
    role = mapping_in(binding, "roleRef")
    subjects = [
        f"{_shown(one.get('kind'))} {_shown(one.get('name'))}"
        + (f" in {_shown(one['namespace'])}" if one.get("namespace") else "")
        for one in mappings_in(binding, "subjects")
    ]
    who = _few(subjects, ", ") or "nobody"
    return f"RoleBinding {_shown(_name(binding))} ({_shown(role.get('kind'))} {_shown(role.get('name'))}): {who}"


def _few(texts: Sequence[str], between: str) -> str:
    more = f" and {len(texts) - MOST_SHOWN} more" if len(texts) > MOST_SHOWN else ""
    return between.join(sorted(texts)[:MOST_SHOWN]) + more


def _shown(name: Any) -> str:
    """A name that others chose: a subject's may have any characters and any length."""
    text = "".join(one if one.isprintable() else "?" for one in str(name))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _name(binding: Object) -> str:
    return str(mapping_in(binding, "metadata").get("name"))
