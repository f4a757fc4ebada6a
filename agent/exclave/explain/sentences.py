"""A verdict in words: one or two plain sentences, the rule's own text, and what else is worth knowing. Pure.

Rules: the reason is the comment of the rule that decided, as it stands in the kernel; where none decided, it is said
what the rules take instead. The same facts stand in the JSON object under fixed keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exclave.explain.table import Chain, Table
from exclave.explain.trace_events import TRACE_TABLE, TraceEvent
from exclave.explain.verdict import Connection, Outcome, RuleHit, TableVerdict, element_text, is_translating
from exclave.kit.formats.host_port import join_host_port
from exclave.link.layout import INSTANCES, TABLE, instance_address
from exclave.redirect.rules.confirm_timer import ARMED, element_time
from exclave.redirect.rules.trial import TRIAL

_OWN_CHAINS = {"outbound": "outbound", "inbound": "inbound"}


@dataclass(frozen=True)
class Answer:
    """What is said of one connection."""

    subject: str
    sentence: str
    outcome: Outcome
    rule: str | None = None
    holds: tuple[str, str] | None = None
    instance: str | None = None
    target: str | None = None
    notes: tuple[str, ...] = ()


def describe(
    direction: str, connection: Connection, table: Table | None, texts: Mapping[int, str], verdict: TableVerdict
) -> Answer:
    """Put a verdict into words."""
    subject = join_host_port(str(connection.destination), connection.port)
    if direction == "inbound":
        subject = f"{subject} from outside"
    step = find_decisive_hit(connection, verdict)
    rule = step.rule if step is not None else verdict.unknown_rule
    text = texts.get(rule.handle) if rule is not None else None
    instance = _instance(verdict)
    said = {
        Outcome.PROXY: f"goes to the proxy{f', instance {instance}' if instance else ''}",
        Outcome.PASSES: "passes by the proxy",
        Outcome.DROPPED: "is dropped",
        Outcome.UNKNOWN: "cannot be told",
    }[verdict.outcome]
    sentence = f"{subject} {said}: {_reason(direction, table, step, verdict)}."
    return Answer(
        subject,
        sentence,
        verdict.outcome,
        text,
        step.because if step is not None else None,
        instance,
        join_host_port(*verdict.target) if verdict.target else None,
        (*_notes(direction, connection, verdict), *_unconfirmed(table, step, verdict)),
    )


def find_decisive_hit(connection: Connection, verdict: TableVerdict) -> RuleHit | None:
    """The step to tell: what captured or dropped; else the rule that let it pass; None if no rule did.

    Two chains are asked about what comes from outside. For what is meant for this machine the first one's word counts,
    for what is not, the second one's.
    """
    if verdict.outcome is Outcome.UNKNOWN or not verdict.steps:
        return None
    if verdict.outcome is Outcome.DROPPED:
        return verdict.steps[-1]
    if verdict.outcome is Outcome.PROXY:
        return next(step for step in reversed(verdict.steps) if step.rule is not None)
    told = [step for step in verdict.steps if step.chain != "foreign"]
    if connection.hook == "prerouting" and connection.kind != "unicast":
        told = told[:1]
    return next((step for step in reversed(told) if step.rule is not None), None)


def _instance(verdict: TableVerdict) -> str | None:
    if verdict.target is None:
        return None
    known = {instance_address(one, family): one for one in INSTANCES for family in (4, 6)}
    return known.get(verdict.target[0])


def _reason(direction: str, table: Table | None, step: RuleHit | None, verdict: TableVerdict) -> str:
    if verdict.unknown_rule is not None:
        return "exclave does not know what the rule below does; others have put it there"
    if verdict.outcome is Outcome.UNKNOWN:
        return f"that depends on {' and '.join(verdict.missing_facts)}"
    if table is None:
        return "there are no rules of exclave's in this kernel"
    if table.is_dormant:
        return "others have put exclave's rules to sleep (flag dormant)"
    if step is None or step.rule is None:
        return _reason_of_none(direction, table)
    if step.chain == "foreign":
        return "the addresses of the private link are this machine's alone"
    return step.rule.comment or "by the rule below"


def _reason_of_none(direction: str, table: Table) -> str:
    chain = next((chain for chain in table.chains if chain.name == _OWN_CHAINS[direction]), None)
    if chain is None:
        return (
            f"the rules capture nothing {direction} now, because the group wants it so, or the proxy has been away "
            "for longer than the group allows"
        )
    return f"no rule takes it{_captured_elements(chain, table)}"


def _captured_elements(chain: Chain, table: Table) -> str:
    """What a chain takes, where that is few enough to say."""
    names = [f"captured_{'ports' if chain.name == 'inbound' else 'networks'}{family}" for family in ("", "4", "6")]
    held = [element for name in names for element in table.sets.get(name, ())]
    if not held or len(held) > MOST_LISTED:
        return ""
    what = "ports" if chain.name == "inbound" else "networks"
    return f"; taken are the {what} {', '.join(map(element_text, held))}"


MOST_LISTED = 12
"""Elements of a set that a sentence may list."""


def _notes(direction: str, connection: Connection, verdict: TableVerdict) -> tuple[str, ...]:
    if verdict.outcome is Outcome.PROXY and direction == "inbound" and connection.kind == "local":
        to = join_host_port(str(connection.destination), connection.port)
        return (f"the proxy then calls {to} as a program here does; a port that Docker publishes is reached, too",)
    options = {"the interface": "--interface", "the caller's address": "--from"}
    named = [options[fact] for fact in verdict.missing_facts if fact in options]
    return (f"say which: {', '.join(named)}",) if named else ()


def _unconfirmed(table: Table | None, step: RuleHit | None, verdict: TableVerdict) -> tuple[str, ...]:
    """That what is captured is captured for a while only, unless somebody confirms the rules."""
    if table is None or step is None or step.chain == TRIAL or verdict.outcome is not Outcome.PROXY:
        return ()
    left = element_time(table.sets[ARMED]) if ARMED in table.sets else None
    return (f"until confirmed, {left:.0f} s left; exclave confirm has the rules stay",) if left else ()


def compare_with_trace(
    verdict: TableVerdict, connection: Connection, table: Table, events: Sequence[TraceEvent]
) -> tuple[bool, list[str]]:
    """Whether the kernel did to a packet what the verdict says; and all that it did, also by the tables of others.

    Chains with NAT are asked only where connections are tracked, and a family is tracked only if somebody's rules need
    that: where none of ours translates it, the kernel may pass them over, and comes to the same end.
    """
    names = {chain.name: chain.kind for chain in table.chains if chain.hook == connection.hook}
    decided = [one for one in events if one.verdict != "continue" and one.table != TRACE_TABLE]
    ours = [(one.chain, one.handle, one.verdict) for one in decided if one.table == TABLE and one.chain in names]
    expected = [(step.chain, step.rule.handle if step.rule else None, step.verdict) for step in verdict.steps]
    if ours != expected and not is_translating(table, connection.destination.version):
        expected = [step for step in expected if names[step[0]] != "nat"]
    told = [
        f"{one.table} {one.chain}: {one.verdict} by {f'rule {one.handle}' if one.handle else 'its policy'}"
        for one in decided
    ]
    return ours == expected, told
