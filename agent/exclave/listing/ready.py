"""Decides whether pods may send traffic here, and what to write about it: facts in, writes out. Pure.

`serving` lets the controller list the ports; condition Ready, written last and withdrawn first, lets pods connect.
"""

from dataclasses import dataclass, replace

from exclave.api.member import READY_AWAITED, Condition, DataPath
from exclave.data_path.assessment import Assessment

# Reasons of condition Ready that a machine writes.
READY, PROBE_FAILED, NOT_SERVING, LEAVING, STOPPED = "Ready", "ProbeFailed", "NotServing", "Leaving", "Stopped"
CORDONED, FIREWALL = "Cordoned", "FirewallBlocks"
NOT_LIVE = "NotLive"  # the controller writes it
REPLACING = 5.0  # seconds for a replacement, while the rules in the kernel point to a proxy that can serve

REPAIRING = 1.0  # seconds of the last `WITHIN` without rules: a repair is faster, a withdrawal costs two writes

WITHIN = 10.0  # seconds in which gaps are added up


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe. `message`: the last failure, "" while it passes."""

    port: int
    kind: str
    passing: bool
    message: str


@dataclass(frozen=True)
class Readiness:
    """The wanted condition Ready. A new `note` is written even if the condition stays the same."""

    ready: bool
    reason: str
    message: str
    note: str = ""


@dataclass(frozen=True)
class ReadinessFacts:
    """The facts of now. `was_whole`: certificate, proxy and rules have been there in this run."""

    certificate: bool
    proxy: bool
    rules: bool
    assessment: Assessment
    was_whole: bool
    ports: frozenset[int]  # of the group
    probes: tuple[ProbeResult, ...]
    is_adopting: bool = False  # an earlier agent's proxy runs and has not answered yet
    serving: bool | None = None  # as in the own Member; None before the first read
    data_path: str = ""
    listed: frozenset[int] = frozenset()
    workload: str | None = None  # uid of the ExternalWorkload
    is_live: bool = False
    live_since: str = ""  # when the controller has changed `is_live` last
    registered: Condition | None = None  # the controller's
    silence: str = ""  # why the controller has withdrawn this member, or soon will: heartbeats do not arrive
    is_cordoned: bool = False
    unconfirmed: str = ""  # why unconfirmed rules were removed
    refusal: str = ""  # a policy denies our probes of the proxy; traffic is not affected
    address_note: str = ""  # why pods use another address than the newest one
    watch_note: str = ""  # why changes of the own Member arrive late
    blocked: str = ""  # what of the host's own firewall keeps pods out
    blocked_note: str = ""  # the same, if that is not certain

    @property
    def is_whole(self) -> bool:
        """True if certificate, proxy and rules are there."""
        return self.certificate and self.proxy and self.rules

    @property
    def is_steady(self) -> bool:
        """True if they are there, and flap damping has ended."""
        return self.is_whole and self.assessment.is_steady

    @property
    def missing(self) -> str:
        """The parts that are missing, for a person."""
        parts = {"certificate": self.certificate, "proxy": self.proxy, "rules": self.rules}
        absent = ", ".join(name for name, there in parts.items() if not there)
        return self.assessment.message or f"missing: {absent}"


@dataclass(frozen=True)
class Reported:
    """The condition as written last. `workload`: uid of the ExternalWorkload; `is_live`: the member was live."""

    readiness: Readiness
    workload: str
    is_live: bool
    live_since: str = ""
    registered: Condition | None = None


@dataclass(frozen=True)
class SetReady:
    """Write condition Ready."""

    readiness: Readiness


@dataclass(frozen=True)
class SetServing:
    """Write `serving` and `dataPath` into the own Member. `why`: why it is not meshed, for a person."""

    serving: bool
    data_path: DataPath
    why: str = ""


Effect = SetReady | SetServing


def readiness(facts: ReadinessFacts) -> Readiness:
    """The wanted condition Ready."""
    assessment = facts.assessment
    if facts.unconfirmed:
        return Readiness(False, NOT_SERVING, facts.unconfirmed)
    note = f"{assessment.reason.word} {assessment.data_path}" if assessment.reason else facts.refusal
    if not facts.is_steady:
        return Readiness(False, NOT_SERVING, facts.missing, note)
    if facts.blocked:
        return Readiness(False, FIREWALL, facts.blocked)
    if facts.is_cordoned:
        return Readiness(False, CORDONED, "an admin has put this member out of service for a while")
    # Ready is about the whole workload: a new port that is not listed yet must not withdraw those that are.
    if not facts.serving or (facts.ports and not facts.listed):
        return Readiness(False, NOT_SERVING, "the ports are not listed yet")
    failed = [f"{probe.kind} {probe.port}: {probe.message}" for probe in facts.probes if not probe.passing]
    if failed:
        return Readiness(False, PROBE_FAILED, "; ".join(failed))
    stands = "certificate, proxy and rules are in place, and the probes pass"
    linkerd = (assessment.message if note else "") or facts.refusal
    notes = {"address-kept": facts.address_note, "watch-loops": facts.watch_note, "firewall-blocks": facts.blocked_note}
    but = [text for text in (linkerd, *notes.values()) if text]
    words = (note, *(word for word, text in notes.items() if text))
    note = " ".join(word for word in words if word)
    return Readiness(True, READY, "; but ".join((stands, *but)), note)


def wants_serving(facts: ReadinessFacts) -> bool:
    """True if ports may be listed: certificate, proxy and rules are there, or missing for a short time only."""
    if facts.unconfirmed:
        return False
    if facts.is_steady:
        return True
    return bool(facts.serving) and (facts.was_whole or facts.is_adopting) and not facts.assessment.is_failing


def wanted_data_path(facts: ReadinessFacts) -> DataPath:
    """The wanted `dataPath`. A short loss changes nothing."""
    if facts.unconfirmed:
        return "outbound-open"
    if wants_serving(facts) or facts.assessment.is_failing:
        return facts.assessment.data_path
    return "down"


def plan_writes(facts: ReadinessFacts, reported: Reported | None) -> tuple[Effect, ...]:
    """The writes to do now, in this order; nothing before the own Member was read."""
    if facts.serving is None or (facts.is_adopting and not facts.is_whole):
        return ()
    wanted = readiness(facts)
    ready = (SetReady(wanted),) if facts.workload is not None and _must_report(wanted, facts, reported) else ()
    serving, data_path = wants_serving(facts), wanted_data_path(facts)
    differs = (serving, data_path) != (facts.serving, facts.data_path)
    why = "" if data_path == "meshed" else facts.unconfirmed or facts.assessment.message
    spec = (SetServing(serving, data_path, why),) if differs else ()
    return (*spec, *ready) if wanted.ready else (*ready, *spec)


def _must_report(wanted: Readiness, facts: ReadinessFacts, reported: Reported | None) -> bool:
    # A new ExternalWorkload has no condition. For a member that is not live, the controller overwrites the condition,
    # also while our watch is refused, after which only the time of the change is another one.
    if reported is None or reported.workload != facts.workload:
        return True
    if facts.is_live and (not reported.is_live or facts.live_since != reported.live_since):
        return True
    # Before it changes an address, the controller overwrites the condition. The message has the time.
    is_awaited = facts.registered is not None and facts.registered.reason == READY_AWAITED
    if is_awaited and facts.registered != reported.registered:
        return True
    before = reported.readiness
    is_noteworthy = wanted.note != before.note and (wanted.ready or bool(wanted.note))
    return is_noteworthy or (wanted.ready, wanted.reason) != (before.ready, before.reason)


@dataclass(frozen=True)
class RulesFacts:
    """The rules in the kernel. `serving`: they point to a proxy that can serve; `gone`: none of ours are there.

    `wanted`: rules with inbound traffic are wanted; `refused`: the kernel does not accept them.
    """

    in_place: bool
    serving: bool
    gone: bool
    wanted: bool
    refused: bool


@dataclass(frozen=True)
class RuleGaps:
    """Times when rules were not as wanted (monotonic). `since`: start of this gap, or None; `past`: earlier ones."""

    since: float | None = None
    past: tuple[tuple[float, float], ...] = ()
    was_in_place: bool = False

    def observe(self, in_place: bool, now: float) -> "RuleGaps":
        """The gaps after an observation."""
        if not in_place:
            return replace(self, since=now) if self.since is None and self.was_in_place else self
        past = self.past if self.since is None else (*self.past, (self.since, now))
        return RuleGaps(None, tuple(gap for gap in past if gap[1] > now - WITHIN), was_in_place=True)

    def missing_seconds(self, now: float) -> float:
        """Seconds of the last `WITHIN` in which rules were not as wanted."""
        gaps = self.past if self.since is None else (*self.past, (self.since, now))
        return sum(max(0.0, end - max(began, now - WITHIN)) for began, end in gaps)


def can_rely_on_rules(facts: RulesFacts, gaps: RuleGaps, now: float) -> bool:
    """True if pods can rely on the rules."""
    if not facts.wanted or facts.refused:
        return False
    if facts.in_place:
        return facts.serving
    if gaps.since is None:
        return False
    if facts.serving:
        return now - gaps.since <= REPLACING
    return facts.gone and gaps.missing_seconds(now) <= REPAIRING
