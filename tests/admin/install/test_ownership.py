"""Whose the objects of an installation are; tests/peers installs over those of others on real servers."""

from typing import Any

import pytest

from exclave.admin.check.rows import Row
from exclave.admin.install.ownership import labelled, obsolete, outcome, owners_row
from exclave.admin.kubectl_errors import FieldOwner
from exclave.admin.objects import Installation, later_objects
from exclave.api.requests import Object

ARGO = FieldOwner("argocd-controller", (".spec.replicas",), applies=True)
MINE = FieldOwner("our-own-operator", (".spec.replicas", ".spec.paused"), applies=True)
EDITOR = FieldOwner("kubectl-edit", (".spec.replicas",), applies=False)
HELM = FieldOwner("helm", (".spec.replicas",), applies=False)

OWNERS: dict[str, tuple[dict[str, tuple[FieldOwner, ...]], str]] = {
    "nobody": ({}, ""),
    "an admin who has edited a field": ({"Deployment a": (EDITOR,)}, ""),
    "Argo CD, beside an admin": (
        {"Deployment a in x": (EDITOR, ARGO)}, "Deployment a in x: argocd-controller sets .spec.replicas",
    ),
    "Helm 3, which does not use server-side apply": ({"Role b": (HELM,)}, "Role b: helm sets .spec.replicas"),
    "a program that nobody knows": (
        {"Deployment a": (MINE,)}, "Deployment a: our-own-operator sets .spec.paused, .spec.replicas",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("conflicts", "problem"), OWNERS.values(), ids=OWNERS)
def test_only_programs_that_set_fields_again_are_a_fault(
    conflicts: dict[str, tuple[FieldOwner, ...]], problem: str
) -> None:
    row = owners_row(conflicts)
    assert (row.result, row.problem) == ("error" if problem else "success", problem)
    if problem:
        assert "kubectl apply --server-side --field-manager=exclave --force-conflicts -f -" in row.hint
    else:
        assert row == Row(row.title)


def config(**fields: Any) -> Object:
    metadata = {"name": "a", "resourceVersion": "1", "generation": 1, "labels": {"a": "b"}}
    return {"kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}, "status": {"x": 1}, **fields}


OUTCOMES: dict[str, tuple[Object | None, Object, str]] = {
    "an object that was missing": (None, config(), "created"),
    "the same": (config(), config(), "unchanged"),
    "another version of the same content": (
        config(), config(metadata={"name": "a", "resourceVersion": "2", "labels": {"a": "b"}}), "unchanged",
    ),
    "another status": (config(), config(status={"x": 2}), "unchanged"),
    "other content": (config(), config(data={"a": "2"}), "changed"),
    "another label": (config(), config(metadata={"name": "a", "labels": {"a": "c"}}), "changed"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "applied", "words"), OUTCOMES.values(), ids=OUTCOMES)
def test_an_object_is_compared_by_its_content(found: Object | None, applied: Object, words: str) -> None:
    assert outcome(found, applied) == words


WANTED = later_objects(Installation())
OUR_ENTRY = {"manager": "exclave", "operation": "Apply"}


def role(name: str, namespace: str, *entries: dict[str, str]) -> Object:
    metadata = {"name": name, "namespace": namespace, "managedFields": list(entries)}
    return {"kind": "Role", "metadata": metadata, "rules": []}


@pytest.mark.parametrize(
    ("found", "goes"),
    [
        pytest.param(role("exclave-old", "exclave", OUR_ENTRY), True, id="one that this version does not make"),
        pytest.param(role("exclave-controller", "mesh", OUR_ENTRY), True, id="one in a namespace of former options"),
        pytest.param(role("exclave-controller", "linkerd", OUR_ENTRY), False, id="one that this version makes"),
        pytest.param(role("exclave-old", "exclave"), False, id="one that has only the label"),
        pytest.param(
            role("exclave-old", "exclave", {"manager": "exclave", "operation": "Update"}, {"manager": "helm"}),
            False,
            id="one that others have applied",
        ),
    ],
)
def test_only_what_install_has_made_is_obsolete(found: Object, goes: bool) -> None:
    assert obsolete([found], WANTED) == ([found] if goes else [])


def test_every_object_gets_the_label_and_stays_as_it_is_otherwise() -> None:
    for one in WANTED:
        again = labelled(one, "exclave")
        assert again.body["metadata"]["labels"].pop("exclave.dev/installation") == "exclave"
        assert (again.body["metadata"]["labels"], again.key) == (one.body["metadata"].get("labels") or {}, one.key)
        assert "exclave.dev/installation" not in (one.body["metadata"].get("labels") or {})
