"""Whether pods may send traffic here, and what the cluster is to be told of it. Pure: facts in, effects out.

Rules: ports are listed only while certificate, proxy and rules all stand, so `serving` is said after them and taken
back before them; Ready is said last and taken back first. A short loss costs Ready alone; one that outlasts the group's
`failure.after` costs `serving` too. A condition is written when it changes, and again when the ExternalWorkload is
another one or the member has come back to life, never for a probe alone.
"""

from dataclasses import dataclass

from exclave.member.spec import DataPath

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
    """What condition Ready is to say."""

    ready: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Facts:
    """What holds now. `lost_for` is seconds since the data path was last whole; None if it never was in this run."""

    certificate: bool
    proxy: bool
    rules: bool
    lost_for: float | None
    failure_after: float
    fallback: DataPath  # what the data path is once it has failed
    ports: frozenset[int]  # of the group
    probes: tuple[ProbeResult, ...]
    is_adopting: bool = False  # a proxy of an earlier agent runs, and has not been looked at yet
    serving: bool | None = None  # what the own Member says; None while it has not been seen
    data_path: str = ""
    listed: frozenset[int] = frozenset()
    workload: str | None = None  # uid of the ExternalWorkload
    is_live: bool = False
    is_cordoned: bool = False

    @property
    def is_whole(self) -> bool:
        """Certificate, proxy and rules stand."""
        return self.certificate and self.proxy and self.rules

    @property
    def is_failing(self) -> bool:
        """The data path was whole, and has been lost for longer than the group allows."""
        return not self.is_whole and self.lost_for is not None and self.lost_for >= self.failure_after

    @property
    def missing(self) -> str:
        """What is not there, for a person."""
        parts = {"certificate": self.certificate, "proxy": self.proxy, "rules": self.rules}
        return ", ".join(name for name, there in parts.items() if not there)


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
    """Write `serving` and `dataPath` into the own Member."""

    serving: bool
    data_path: DataPath


Effect = SetReady | SetServing


def judge(facts: Facts) -> Verdict:
    """What condition Ready is to say."""
    if not facts.is_whole:
        return Verdict(False, NOT_SERVING, f"missing: {facts.missing}")
    if facts.is_cordoned:
        return Verdict(False, CORDONED, "an admin has put this member out of service for a while")
    unlisted = sorted(facts.ports - facts.listed)
    if not facts.serving or unlisted:
        return Verdict(False, NOT_SERVING, "the ports are not listed yet")
    failed = [f"{probe.kind} {probe.port}: {probe.message}" for probe in facts.probes if not probe.passing]
    if failed:
        return Verdict(False, PROBE_FAILED, "; ".join(failed))
    return Verdict(True, READY, "certificate, proxy and rules stand, and the probes pass")


def wants_serving(facts: Facts) -> bool:
    """Whether ports may be listed: the data path is whole, or was until a moment ago."""
    if facts.is_whole:
        return True
    was_whole = facts.lost_for is not None or facts.is_adopting
    return bool(facts.serving) and was_whole and not facts.is_failing


def wanted_data_path(facts: Facts) -> DataPath:
    """What `dataPath` is to say; a short loss changes nothing."""
    if facts.is_whole or wants_serving(facts):
        return "meshed"
    return facts.fallback if facts.is_failing else "down"


def decide(facts: Facts, told: Told | None) -> tuple[Effect, ...]:
    """What to write now, in this order. Nothing while the own Member has not been seen."""
    if facts.serving is None or (facts.is_adopting and not facts.is_whole):
        return ()
    verdict = judge(facts)
    ready = (SetReady(verdict),) if facts.workload is not None and _must_tell(verdict, facts, told) else ()
    serving, data_path = wants_serving(facts), wanted_data_path(facts)
    differs = (serving, data_path) != (facts.serving, facts.data_path)
    spec = (SetServing(serving, data_path),) if differs else ()
    return (*spec, *ready) if verdict.ready else (*ready, *spec)


def _must_tell(verdict: Verdict, facts: Facts, told: Told | None) -> bool:
    if told is None or told.workload != facts.workload or (facts.is_live and not told.is_live):
        return True
    return verdict != told.verdict and (verdict.ready, verdict.reason) != (told.verdict.ready, told.verdict.reason)
