"""What the data path has come to, and so what each direction does: one judgement for rules, listing and status. Pure.

Rules: a proxy that is ready, a certificate that is valid and rules that the kernel takes make the data path. While one
is missing, traffic is held, and pods are told not to come; once that has lasted for the group's `failure.after`, the
data path has failed: each direction does what the group says, and ports are withdrawn. Outbound opens by default;
inbound stays closed, since a pod would speak TLS to a bare application and policies would be bypassed.
While Linkerd's controllers are away the proxy serves whom it knows, in both directions, so pods may go on coming; but
connections to whom it does not know wait for them without end. That too may last for `failure.after`, and then outbound
does what the group says. Where they are away from the start, the proxy knows nobody, and nothing is waited for.
Coming and going is damped: see `course`.
"""

from dataclasses import dataclass, replace
from enum import Enum

from exclave.api.member import DataPath
from exclave.api.settings import FailurePolicy
from exclave.data_path.flap_damping import NEVER_PRESENT, FlapDamper, failed_at, lost_at
from exclave.kit.formats.duration import format_duration


class DataPathFault(Enum):
    """Why the data path is not whole: a fixed word, what it is for a person, and what to do."""

    CERTIFICATE_ENDED = (
        "certificate-ended",
        "there is no certificate that is valid",
        "see whether exclave's controller runs, and its log",
    )
    PROXY_AWAY = ("proxy-away", "no proxy is ready", "see the proxy's own log in the runtime folder")
    RULES_REFUSED = ("rules-refused", "the kernel does not take the rules", "see the problem that nft tells")
    CONTROL_PLANE_AWAY = (
        "control-plane-away",
        "Linkerd's controllers do not answer the proxy",
        "see whether they run, and whether this machine reaches their ports 8086 and 8090",
    )
    UNSTEADY = ("data-path-unsteady", "the data path comes and goes", "see the agent's log for what ends it")

    @property
    def word(self) -> str:
        """The fixed word."""
        return self.value[0]

    @property
    def text(self) -> str:
        """What is the matter."""
        return self.value[1]

    @property
    def hint(self) -> str:
        """What to do."""
        return self.value[2]


@dataclass(frozen=True)
class DataPathFacts:
    """What holds now. `lookups`: Linkerd's controllers answer; None while nobody knows."""

    certificate: bool
    proxy: bool
    rules: bool
    lookups: bool | None

    @property
    def missing(self) -> DataPathFault | None:
        """What the data path lacks; the first that explains the others."""
        if not self.certificate:
            return DataPathFault.CERTIFICATE_ENDED
        if not self.proxy:
            return DataPathFault.PROXY_AWAY
        return None if self.rules else DataPathFault.RULES_REFUSED


@dataclass(frozen=True)
class Assessment:
    """`outbound_open`, `inbound_open`: such traffic passes by the proxy. `is_failing`: nobody may be sent here.

    `is_steady`: the data path is whole, and has been for long enough. `reason` and `message` say why anything is not as
    it should be, `data_path` what the Member says.
    """

    outbound_open: bool = False
    inbound_open: bool = False
    is_failing: bool = False
    is_steady: bool = False
    reason: DataPathFault | None = None
    message: str = ""

    @property
    def data_path(self) -> DataPath:
        """In the Member's words, of a data path that was whole once."""
        if self.outbound_open:
            return "outbound-open"
        return "down" if self.is_failing else "meshed"

    @property
    def trace(self) -> str:
        """One line for the log."""
        outbound, inbound = ("open" if way else "closed" for way in (self.outbound_open, self.inbound_open))
        why = self.reason.word if self.reason else "none"
        return f"[outbound={outbound} inbound={inbound} failing={self.is_failing} why={why}] {self.message}".rstrip()


@dataclass(frozen=True)
class DataPathHistory:
    """How the data path and the lookups have fared."""

    path: FlapDamper = NEVER_PRESENT
    lookups: FlapDamper = NEVER_PRESENT
    is_adopted: bool = False

    def observe(self, facts: DataPathFacts, now: float, after: float) -> "DataPathHistory":
        """What has become of them by now."""
        lookups = self.lookups
        if facts.lookups is False and lookups == NEVER_PRESENT:
            lookups = lost_at(now) if self.is_adopted else failed_at(now)
        elif facts.lookups is not None:
            lookups = lookups.observe(facts.lookups, now, after)
        return replace(self, path=self.path.observe(facts.missing is None, now, after), lookups=lookups)


def adopted_history(now: float) -> DataPathHistory:
    """Those of a machine whose proxy an earlier agent has left: it may serve, and has not been seen yet."""
    return DataPathHistory(lost_at(now), is_adopted=True)


def assess(history: DataPathHistory, facts: DataPathFacts, policy: FailurePolicy) -> Assessment:
    """What follows from the facts and from how they came about."""
    path, lookups = history.path, history.lookups
    opens = policy.outbound == "open"
    has_failed = path.has_failed
    assessment = Assessment(
        outbound_open=opens and (has_failed or lookups.has_failed),
        inbound_open=policy.inbound == "open" and has_failed,
        is_failing=has_failed,
        is_steady=path.is_steady,
    )
    reason = _reason(history, facts)
    if reason is None:
        return assessment
    return replace(assessment, reason=reason, message=_message(history, reason, assessment, policy))


def _reason(history: DataPathHistory, facts: DataPathFacts) -> DataPathFault | None:
    if history.path != NEVER_PRESENT and facts.missing is not None:
        return facts.missing
    if history.path.held_until is not None:
        return DataPathFault.UNSTEADY
    return DataPathFault.CONTROL_PLANE_AWAY if history.lookups.lost_since is not None else None


def _message(history: DataPathHistory, reason: DataPathFault, assessment: Assessment, policy: FailurePolicy) -> str:
    is_lookups = reason is DataPathFault.CONTROL_PLANE_AWAY
    damper = history.lookups if is_lookups else history.path
    words = [reason.text]
    if damper.held_until is not None:
        words.append(
            f"lost {damper.losses} times, so it counts again after {format_duration(damper.hold)} without a loss"
        )
    elif not damper.has_failed:
        words.append(f"allowed for {format_duration(policy.after)}")
    if is_lookups and not assessment.outbound_open:
        words.append("destinations that the proxy knows go on, connections to others wait")
    elif assessment.outbound_open or assessment.is_failing:
        outbound = "passes by the proxy" if assessment.outbound_open else "is held"
        inbound = "passes by it" if assessment.inbound_open else "is held"
        words.append(f"outbound traffic {outbound}" + (f", inbound {inbound}" if assessment.is_failing else ""))
    elif reason is not DataPathFault.UNSTEADY:
        words.append("what is new is held")
    return "; ".join(words)
