"""Whether pods may send traffic here, and what the cluster is to be told of it. Pure: facts in, effects out.

Rules: ports are listed only while certificate, proxy and rules all stand, so `serving` is said after them and taken
back before them; Ready is said last and taken back first. A short loss costs Ready alone; one that the judgement calls
a failure costs `serving` too, and what comes and goes gets neither back before it has held. A condition is written when
it changes, and again when the ExternalWorkload is another one or the member has come back to life, never for a probe
alone.
"""

from dataclasses import dataclass

from exclave.api.member import DataPath
from exclave.data_path.assessment import Assessment

READY, PROBE_FAILED, NOT_SERVING, LEAVING, STOPPED = "Ready", "ProbeFailed", "NotServing", "Leaving", "Stopped"
CORDONED = "Cordoned"
"""Reasons of condition Ready that a machine gives."""


@dataclass(frozen=True)
class ProbeResult:
    """How a check stands: `message` is what went wrong last, "" while it passes."""

    port: int
    kind: str
    passing: bool
    message: str


@dataclass(frozen=True)
class Verdict:
    """What condition Ready is to say. Another `note` is worth telling though the condition stays what it was."""

    ready: bool
    reason: str
    message: str
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """What holds now. `was_whole`: the data path has been whole at some time of this run."""

    certificate: bool
    proxy: bool
    rules: bool
    assessment: Assessment
    was_whole: bool
    ports: frozenset[int]  # of the group
    probes: tuple[ProbeResult, ...]
    is_adopting: bool = False  # a proxy of an earlier agent runs, and has not been looked at yet
    serving: bool | None = None  # what the own Member says; None while it has not been seen
    data_path: str = ""
    listed: frozenset[int] = frozenset()
    workload: str | None = None  # uid of the ExternalWorkload
    is_live: bool = False
    is_cordoned: bool = False
    unconfirmed: str = ""  # that the rules were not confirmed, so that nobody may come
    refusal: str = ""  # that a policy keeps us from asking the proxy, which costs nobody anything
    kept: str = ""  # why pods are told of another address than this machine's newest

    @property
    def is_whole(self) -> bool:
        """Certificate, proxy and rules stand."""
        return self.certificate and self.proxy and self.rules

    @property
    def is_steady(self) -> bool:
        """They stand, and are judged to last."""
        return self.is_whole and self.assessment.is_steady

    @property
    def missing(self) -> str:
        """What is not as it should be, for a person."""
        parts = {"certificate": self.certificate, "proxy": self.proxy, "rules": self.rules}
        absent = ", ".join(name for name, there in parts.items() if not there)
        return self.assessment.message or f"missing: {absent}"


@dataclass(frozen=True)
class Told:
    """The condition as last written: to which ExternalWorkload, and whether the member was live then."""

    verdict: Verdict
    workload: str
    is_live: bool


@dataclass(frozen=True)
class SetReady:
    """Write condition Ready."""

    verdict: Verdict


@dataclass(frozen=True)
class SetServing:
    """Write `serving` and `dataPath` into the own Member; `why` it is not meshed, for a person."""

    serving: bool
    data_path: DataPath
    why: str = ""


Effect = SetReady | SetServing


def judge(facts: Facts) -> Verdict:
    """What condition Ready is to say."""
    assessment = facts.assessment
    if facts.unconfirmed:
        return Verdict(False, NOT_SERVING, facts.unconfirmed)
    note = f"{assessment.reason.word} {assessment.data_path}" if assessment.reason else facts.refusal
    if not facts.is_steady:
        return Verdict(False, NOT_SERVING, facts.missing, note)
    if facts.is_cordoned:
        return Verdict(False, CORDONED, "an admin has put this member out of service for a while")
    unlisted = sorted(facts.ports - facts.listed)
    if not facts.serving or unlisted:
        return Verdict(False, NOT_SERVING, "the ports are not listed yet")
    failed = [f"{probe.kind} {probe.port}: {probe.message}" for probe in facts.probes if not probe.passing]
    if failed:
        return Verdict(False, PROBE_FAILED, "; ".join(failed))
    stands = "certificate, proxy and rules stand, and the probes pass"
    but = [text for text in ((assessment.message if note else "") or facts.refusal, facts.kept) if text]
    note = " ".join(word for word in (note, "address-kept" if facts.kept else "") if word)
    return Verdict(True, READY, "; but ".join((stands, *but)), note)


def wants_serving(facts: Facts) -> bool:
    """Whether ports may be listed: the data path is whole, or was until a moment ago."""
    if facts.unconfirmed:
        return False
    if facts.is_steady:
        return True
    return bool(facts.serving) and (facts.was_whole or facts.is_adopting) and not facts.assessment.is_failing


def wanted_data_path(facts: Facts) -> DataPath:
    """What `dataPath` is to say; a short loss changes nothing."""
    if facts.unconfirmed:
        return "outbound-open"
    if wants_serving(facts) or facts.assessment.is_failing:
        return facts.assessment.data_path
    return "down"


def decide(facts: Facts, told: Told | None) -> tuple[Effect, ...]:
    """What to write now, in this order. Nothing while the own Member has not been seen."""
    if facts.serving is None or (facts.is_adopting and not facts.is_whole):
        return ()
    verdict = judge(facts)
    ready = (SetReady(verdict),) if facts.workload is not None and _must_tell(verdict, facts, told) else ()
    serving, data_path = wants_serving(facts), wanted_data_path(facts)
    differs = (serving, data_path) != (facts.serving, facts.data_path)
    why = "" if data_path == "meshed" else facts.unconfirmed or facts.assessment.message
    spec = (SetServing(serving, data_path, why),) if differs else ()
    return (*spec, *ready) if verdict.ready else (*ready, *spec)


def _must_tell(verdict: Verdict, facts: Facts, told: Told | None) -> bool:
    if told is None or told.workload != facts.workload or (facts.is_live and not told.is_live):
        return True
    before = told.verdict
    is_noteworthy = verdict.note != before.note and (verdict.ready or bool(verdict.note))
    return is_noteworthy or (verdict.ready, verdict.reason) != (before.ready, before.reason)
