"""Describes a verdict: one plain sentence, the text of the rule, and notes. Pure.

The reason is the comment of the deciding rule in the kernel. If no rule decided, the sentence lists the captured
networks or ports instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exclave.explain.table import TRACE_TABLE, Chain, Table
from exclave.explain.verdict import Connection, Outcome, RuleHit, TableVerdict, element_text, is_translating
from exclave.kit.formats.host_port import join_host_port
from exclave.link.layout import INBOUND_PORT, INSTANCES, TABLE, instance_address
from exclave.redirect.kernel.nft_events import TraceEvent
from exclave.redirect.rules.confirm_timer import ARMED, CLOSED, element_time
from exclave.redirect.rules.ruleset import TRIAL

MOST_LISTED = 12  # elements of a set that a sentence lists at most


@dataclass(frozen=True)
class Answer:
    """The description of one connection. `set_element`: the deciding rule's set, and the element that matched."""

    subject: str
    sentence: str
    outcome: Outcome
    rule: str | None = None
    set_element: tuple[str, str] | None = None
    instance: str | None = None
    target: str | None = None
    notes: tuple[str, ...] = ()


def describe(
    direction: str, connection: Connection, table: Table | None, texts: Mapping[int, str], verdict: TableVerdict
) -> Answer:
    """Describe a verdict."""
    subject = join_host_port(str(connection.destination), connection.port)
    if direction == "inbound":
        subject = f"{subject} from outside"
    step = find_decisive_hit(connection, verdict)
    rule = step.rule if step is not None else verdict.unknown_rule
    text = texts.get(rule.handle) if rule is not None else None
    instance = _instance(verdict)
    result = {
        Outcome.PROXY: f"goes to the proxy{f', instance {instance}' if instance else ''}",
        Outcome.PASSES: "bypasses the proxy",
        Outcome.DROPPED: "is dropped",
        Outcome.UNKNOWN: "is not certain",
    }[verdict.outcome]
    sentence = f"{subject} {result}: {_reason(direction, table, step, verdict)}."
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
    """The hit that explains the verdict: the rule that captured or dropped, else accepted; None without a rule."""
    if verdict.outcome is Outcome.UNKNOWN or not verdict.steps:
        return None
    if verdict.outcome is Outcome.DROPPED:
        return verdict.steps[-1]
    if verdict.outcome is Outcome.PROXY:
        return next(step for step in reversed(verdict.steps) if step.rule is not None)
    hits = [step for step in verdict.steps if step.chain not in ("foreign", CLOSED)]
    # From outside there are two more: `inbound` decides connections to this machine, `forwarded` all others.
    if connection.hook == "prerouting" and connection.kind != "unicast":
        hits = hits[:1]
    return next((step for step in reversed(hits) if step.rule is not None), None)


def _instance(verdict: TableVerdict) -> str | None:
    if verdict.target is None:
        return None
    instances = {instance_address(one, family): one for one in INSTANCES for family in (4, 6)}
    return instances.get(verdict.target[0])


def _reason(direction: str, table: Table | None, step: RuleHit | None, verdict: TableVerdict) -> str:
    if verdict.unknown_rule is not None:
        return "exclave does not understand the rule below, which others have added"
    if verdict.outcome is Outcome.UNKNOWN:
        return f"that depends on {' and '.join(verdict.missing_facts)}"
    if table is None:
        return "this kernel has no rules of exclave"
    if table.is_dormant:
        return "others have disabled exclave's rules (flag dormant)"
    if step is None or step.rule is None:
        return _reason_of_none(direction, table)
    if step.chain == "foreign":
        return "the private link is for this machine only"
    return step.rule.comment or "by the rule below"


def _reason_of_none(direction: str, table: Table) -> str:
    chain = next((chain for chain in table.chains if chain.name == direction), None)
    if chain is None:
        return (
            f"the rules capture nothing {direction} now: the group is configured so, or the proxy has failed for "
            "longer than the group allows"
        )
    return f"no rule captures it{_captured_elements(chain, table)}"


def _captured_elements(chain: Chain, table: Table) -> str:
    """The elements that a chain captures, if they are few."""
    names = [f"captured_{'ports' if chain.name == 'inbound' else 'networks'}{family}" for family in ("", "4", "6")]
    elements = [element for name in names for element in table.sets.get(name, ())]
    if not elements or len(elements) > MOST_LISTED:
        return ""
    what = "ports" if chain.name == "inbound" else "networks"
    return f"; captured are the {what} {', '.join(map(element_text, elements))}"


def _notes(direction: str, connection: Connection, verdict: TableVerdict) -> tuple[str, ...]:
    if verdict.outcome is Outcome.PROXY and direction == "inbound" and connection.kind == "local":
        if connection.port == INBOUND_PORT:
            return ("other proxies call this port, and state which port they want; the proxy connects to that one",)
        to = join_host_port(str(connection.destination), connection.port)
        return (f"the proxy then connects to {to} like a local program; this also reaches ports that Docker publishes",)
    options = {"the interface": "--interface", "the caller's address": "--from"}
    named = [options[fact] for fact in verdict.missing_facts if fact in options]
    return (f"state it: {', '.join(named)}",) if named else ()


def _unconfirmed(table: Table | None, step: RuleHit | None, verdict: TableVerdict) -> tuple[str, ...]:
    """A note that the capturing rules are not confirmed, and when they end."""
    if table is None or step is None or step.chain == TRIAL or verdict.outcome is not Outcome.PROXY:
        return ()
    left = element_time(table.sets[ARMED]) if ARMED in table.sets else None
    return (f"the rules are not confirmed and end in {left:.0f} s; exclave confirm keeps them",) if left else ()


def compare_with_trace(
    verdict: TableVerdict, connection: Connection, table: Table, events: Sequence[TraceEvent]
) -> tuple[bool, list[str]]:
    """True if the kernel's events match the verdict; and all events as text, also those of other tables."""
    names = {chain.name: chain.kind for chain in table.chains if chain.hook == connection.hook}
    decided = [one for one in events if one.verdict != "continue" and one.table != TRACE_TABLE]
    ours = [(one.chain, one.handle, one.verdict) for one in decided if one.table == TABLE and one.chain in names]
    expected = [(step.chain, step.rule.handle if step.rule else None, step.verdict) for step in verdict.steps]
    # The kernel skips NAT chains for an untracked family, and tracks a family only if a rule needs that.
    if ours != expected and not is_translating(table, connection.destination.version):
        expected = [step for step in expected if names[step[0]] != "nat"]
    lines = [
        f"{one.table} {one.chain}: {one.verdict} by {f'rule {one.handle}' if one.handle else 'its policy'}"
        for one in decided
    ]
    return ours == expected, lines
