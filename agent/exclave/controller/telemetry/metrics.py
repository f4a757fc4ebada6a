"""The controller's metrics, each with its help text in `controller_metrics`. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from exclave.api.member import MemberView, view_member
from exclave.api.names import group_of_member
from exclave.api.requests import Object


@dataclass(frozen=True)
class Metric:
    """One metric: its samples by the values of its labels."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()
    samples: Mapping[tuple[str, ...], float] = field(default_factory=dict)


def state_of_member(view: MemberView) -> str:
    """The state of a member in one word, by its conditions."""
    if view.deleting:
        return "leaving"
    if view.admitted is None or not view.admitted.status:
        return "refused" if view.admitted is not None else "new"
    if view.live is None or not view.live.status:
        return "not-live"
    if view.cordoned:
        return "cordoned"
    return "serving" if view.serving else "starting"


class MemberStates:
    """How many members are in which state: figures are taken each second, and a Member is read when it has changed."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], tuple[Object, tuple[str, str]]] = {}

    def count(self, members: Mapping[tuple[str, str], Object]) -> Counter[tuple[str, str]]:
        """Members by group and state. Objects are replaced, never modified."""
        before, self._states = self._states, {}
        for key, member in members.items():
            found = before.get(key)
            if found is None or found[0] is not member:
                view = view_member(member)
                found = member, (group_of_member(view.name), state_of_member(view))
            self._states[key] = found
        return Counter(state for _, state in self._states.values())


def controller_metrics(
    *,
    leads: bool,
    members: Counter[tuple[str, str]],
    groups: int,
    refused_groups: int,
    transitions: Counter[str],
    requests: Counter[tuple[str, str]],
    issuer_ends: float | None,
    policies_installed: bool,
    heartbeat: float,
) -> list[Metric]:
    """All metrics of a leader; a replica that stands by has two. `members` are by group and state."""
    found = [
        Metric("exclave_controller_leads", "gauge", "1 where this replica leads", (), {(): float(leads)}),
        Metric(
            "exclave_api_requests",
            "counter",
            "Requests to the API server; code is empty where nobody answered",
            ("verb", "code"),
            {key: float(count) for key, count in requests.items()},
        ),
    ]
    if not leads:
        return found
    return [
        *found,
        Metric("exclave_members", "gauge", "Members by group and state", ("group", "state"),
               {key: float(count) for key, count in members.items()}),
        Metric("exclave_groups", "gauge", "Groups, and whether they are accepted", ("accepted",),
               {("true",): float(groups - refused_groups), ("false",): float(refused_groups)}),
        Metric("exclave_controller_steps", "counter", "Steps carried out", ("step",),
               {(transition,): float(count) for transition, count in transitions.items()}),
        Metric("exclave_issuer_not_after_seconds", "gauge", "When the issuer's chain ends, epoch seconds", (),
               {} if issuer_ends is None else {(): issuer_ends}),
        Metric("exclave_guard_stands", "gauge", "1 while the admission policies stand as installed", (),
               {(): float(policies_installed)}),
        Metric("exclave_heartbeat_interval_seconds", "gauge", "Seconds between a member's heartbeats", (),
               {(): heartbeat}),
    ]  # fmt: skip
