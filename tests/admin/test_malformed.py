"""An object of another shape affects no other object in an admin's commands."""

from typing import Any

import pytest
from hypothesis import given

from exclave.admin.check.rows import group_rows, member_rows, report_text
from exclave.admin.check.snapshot import ClusterSnapshot
from exclave.admin.check.verbs import _checked, _groups
from exclave.admin.group.checks import group_warnings
from exclave.admin.group.verbs import TITLES as GROUP_TITLES
from exclave.admin.group.verbs import broken_lines, group_row
from exclave.admin.install.uninstall import _release_all, _release_workloads
from exclave.admin.member.rows import TITLES as MEMBER_TITLES
from exclave.admin.member.rows import member_lines, member_row
from exclave.admin.rotation.verbs import MeshTrust, _published_trust, advice, gates, rotation_row
from exclave.admin.session import Session
from exclave.admin.tables import describe_text, table
from exclave.api.group import GroupSpec, Port
from exclave.api.member import Condition, make_condition
from exclave.api.names import FINALIZER, PORTS_FINALIZER
from exclave.api.requests import CONFIG_MAPS, EXTERNAL_WORKLOADS, MEMBERS, SERVICES, WORKLOAD_GROUPS, Object, Resource
from exclave.api.settings import render_settings
from exclave.errors import ApiRefusal
from exclave.kit.formats.visible_text import is_visible
from support.malformed import damaged
from support.mesh import make_settings
from support.store import external_workload, group, member

NOW = 1_800_000_000.0


def stored(found: Object, name: str, *conditions: Condition, **status: Any) -> Object:
    """An object as the API server has it."""
    made = [make_condition(one, NOW) for one in conditions]
    metadata = {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {**found, "metadata": metadata, "status": {"conditions": made, **status}}


ADMITTED, LIVE = Condition("Admitted", True, "Admitted", ""), Condition("Live", True, "HeartbeatsArrive", "")
MEMBER = stored(
    member("web-k7q2x-1", addresses=["10.0.0.1"], facts={"kernel": "6"}, loaded={"anchors": "a", "issuer": "b"}),
    "web-k7q2x-1", ADMITTED, LIVE,
    certificate={"csrSha256": "c", "chain": "d", "notAfter": "2027-01-01T00:00:00Z"},
    issued=[{"serial": "1", "keySha256": "2", "time": "3"}],
)  # fmt: skip
GROUP = stored(
    group("web", ports=[{"name": "http", "port": 80}], labels={"app": "web"}, serviceAccount="web"),
    "web", Condition("Accepted", False, "Invalid", "no"),
)  # fmt: skip
WORKLOAD = {
    **stored(external_workload(), "web-k7q2x-1", Condition("Ready", True, "Ready", "")),
    "spec": {"ports": [{"name": "http", "port": 80}], "workloadIPs": [{"ip": "10.0.0.1"}]},
}
SERVICE: Object = {
    "metadata": {"name": "front", "namespace": "shop"},
    "spec": {"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80, "targetPort": 81}]},
}


@given(damaged(MEMBER), damaged(WORKLOAD))
def test_a_member_is_shown_whatever_its_shape(found: Object, workload: Object) -> None:
    assert member_row(found, NOW)[:2] == ["shop", "web-k7q2x-1"]
    assert member_lines(found, workload, [], NOW)[0] == ("Name", "web-k7q2x-1")
    assert len(member_rows([found, MEMBER])) == 2


TYPES = ("Admitted", "Live", "Accepted", "Ready", "True", "False")
FORGED = "x\nweb-k7q2x-2   True\x1b[1A\t\u202e"


def forge(tree: Any) -> Any:
    """The same tree, with more after each of its texts, but for the type and status of conditions."""
    if isinstance(tree, dict):
        return {
            key: value if key in ("type", "status") and value in TYPES else forge(value) for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [forge(value) for value in tree]
    return tree + FORGED if isinstance(tree, str) else tree


def test_no_text_of_an_object_forges_a_row_or_an_escape() -> None:
    found, workload, one = forge(MEMBER), forge(WORKLOAD), forge(GROUP)
    event = forge({"type": "Normal", "reason": "Admitted", "note": "x", "eventTime": "2026-01-01T00:00:00Z"})
    described = describe_text(member_lines(found, workload, [event], NOW)).split("\n")
    assert len(described) == len(describe_text(member_lines(MEMBER, WORKLOAD, [event], NOW)).split("\n"))
    listed = table(MEMBER_TITLES, [member_row(found, NOW)]).split("\n")
    grouped = table(GROUP_TITLES, [group_row(one, [found], NOW)]).split("\n")
    broken = describe_text(broken_lines(one, FORGED)).split("\n")
    report = report_text([*member_rows([found]), *group_rows([one], [FORGED])]).split("\n")
    assert (len(listed), len(grouped), len(broken)) == (2, 2, 6)
    assert len(report) == len(report_text([*member_rows([MEMBER]), *group_rows([GROUP], ["front"])]).split("\n"))
    shown = [*described, *listed, *grouped, *broken, *report]
    assert all(map(is_visible, shown))
    assert not any(line.lstrip().startswith("web-k7q2x-2") for line in shown)


@given(damaged(MEMBER))
def test_a_rotation_counts_all_members_whatever_the_shape_of_one(found: Object) -> None:
    mesh, late = MeshTrust("new", "c", ()), {**MEMBER, "metadata": {**MEMBER["metadata"], "name": "web-zzzzz-1"}}
    found_gates = gates(mesh, [], [found, late])
    assert all("web-zzzzz-1" in gate.late for gate in found_gates[2:])
    assert advice(mesh, found_gates, [found, late])
    assert rotation_row(mesh, found)[0] == "web-k7q2x-1"


@given(damaged(GROUP), damaged(MEMBER))
def test_a_group_is_shown_whatever_its_shape(found: Object, one: Object) -> None:
    row = group_row(found, [one, MEMBER], NOW)
    assert row[:2] == ["shop", "web"] and all(isinstance(cell, str) for cell in row)
    assert broken_lines(found, "why")[0] == ("Name", "web")


@given(damaged(GROUP), damaged(SERVICE))
def test_warnings_about_a_group_do_not_depend_on_the_shape_of_others(other: Object, service: Object) -> None:
    spec = GroupSpec("api", ("10.0.0.0/8",), {"app": "web"}, (Port("http", 80),))
    found = group_warnings(
        "api", spec, [other], [service, SERVICE], [{"metadata": {"name": "pod"}, "spec": 7}], opaque_ports="25"
    )
    assert "Service front sends to port 81, which group api does not serve" in "".join(found)


class Stored:
    """kubectl over some objects; a change of what is called `bad` is refused as invalid."""

    def __init__(self, objects: dict[Resource, list[Object]]) -> None:
        self.changed: list[tuple[str, str]] = []
        self._objects = objects

    def list(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        return self._objects.get(resource, [])

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        return next((one for one in self._objects.get(resource, []) if one["metadata"]["name"] == name), None)

    def patch(self, resource: Resource, namespace: str | None, name: str, body: Object) -> Object:
        if name == "bad":
            raise ApiRefusal(422, "Invalid", "spec.ports: another shape", "look at it")
        self.changed.append(("patch", name))
        return {}

    def delete(self, resource: Resource, namespace: str | None, name: str) -> bool:
        self.changed.append(("delete", name))
        return True


def session_of(stored_objects: dict[Resource, list[Object]]) -> tuple[Session, Stored]:
    kubectl = Stored(stored_objects)
    return Session(kubectl, "shop"), kubectl  # type: ignore[arg-type]


@given(damaged(GROUP), damaged(SERVICE))
def test_a_check_ends_whatever_the_shape_of_an_object(found: Object, service: Object) -> None:
    session, kubectl = session_of({WORKLOAD_GROUPS: [found, GROUP], SERVICES: [service, SERVICE]})
    snapshot = ClusterSnapshot(kubectl, "exclave", "linkerd")  # type: ignore[arg-type]
    accepted, headless, _ = _groups(session, snapshot, "exclave")
    assert accepted.result == headless.result == "warning"
    assert "shop/front" in headless.problem
    assert any(one.name == "exclave-settings.web" for one in snapshot.wanted_by_groups)
    assert group_rows([found, GROUP], [])


def test_a_check_that_cannot_read_an_object_fails_and_the_others_run() -> None:
    (row,) = _checked("every group is accepted", lambda: [].pop())
    assert (row.title, row.result) == ("every group is accepted", "error")
    assert row.problem.startswith("an object cannot be read: it has another shape than expected: IndexError")


def test_settings_that_cannot_be_read_close_the_gate_of_their_group_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def settings_of(name: str, text: str) -> Object:
        return {"metadata": {"name": f"exclave-mesh.{name}", "namespace": "shop"}, "data": {"settings.json": text}}

    good = render_settings(make_settings())
    groups = [stored(group(name), name) for name in ("bad", "good")]
    session, kubectl = session_of(
        {WORKLOAD_GROUPS: groups, CONFIG_MAPS: [settings_of("bad", "{}"), settings_of("good", good)]}
    )
    found = _published_trust(session, ClusterSnapshot(kubectl, "exclave", "linkerd"))  # type: ignore[arg-type]
    assert [(one.group, one.anchors) for one in found] == [("shop/bad", ""), ("shop/good", make_settings().anchors)]
    assert capsys.readouterr().err == (
        "warning: the settings of group shop/bad cannot be read: settings version None: this agent reads version 1; "
        "use the controller's version of kubectl exclave\n"
    )


@pytest.mark.parametrize("spec", [7, ["x"], {"ports": 7}, {"ports": ["x"]}, None])
def test_uninstalling_goes_on_after_an_object_that_cannot_be_changed(
    spec: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("exclave.admin.install.uninstall.DRAIN", 0.0)
    monkeypatch.setattr("exclave.admin.install.uninstall.NOTICE", 0.0)

    def held(found: Object, name: str, finalizer: str) -> Object:
        made = stored(found, name)
        return {**made, "metadata": {**made["metadata"], "finalizers": [finalizer]}}

    bad = {**held(external_workload(), "bad", PORTS_FINALIZER), "spec": spec}
    good = {**held(external_workload(), "good", PORTS_FINALIZER), "spec": {}}
    members = [held(member(name), name, FINALIZER) for name in ("bad", "good")]
    session, kubectl = session_of({EXTERNAL_WORKLOADS: [bad, good], MEMBERS: members})
    _release_workloads(session)
    _release_all(session, MEMBERS, FINALIZER)
    gone = [("delete", "bad"), ("patch", "good"), ("delete", "good")]
    assert kubectl.changed == [*gone, *gone]
    left = "warning: Member shop/bad is left as it is: spec.ports: another shape"
    assert left in capsys.readouterr().err
