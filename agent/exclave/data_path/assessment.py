"""Assesses the data path: which way each direction of traffic goes, and whether pods may send some. Pure.

The data path is whole while the certificate is valid, a proxy is ready and the kernel has accepted the rules. Losses of
it, and of Linkerd's controllers, are damped: a first loss ends at once, a further one within ten minutes only after a
hold time of presence. So short losses add up, and nothing that depends on this changes over thirty times an hour.
"""

from dataclasses import dataclass, replace
from enum import Enum

from exclave.api.group import FailurePolicy
from exclave.api.member import DataPath
from exclave.kit.formats.times import format_duration
from exclave.kit.tasks.backoff import Backoff

HOLDS = Backoff(first=5.0, most=300.0, jitter=0.0)  # seconds of presence that end a loss, from the second loss on
FORGET_AFTER = 600.0  # seconds without a loss after which earlier losses no longer count


# Flap damping.


@dataclass(frozen=True)
class FlapDamper:
    """The damped state of the data path or the lookups. All times are seconds of one clock."""

    losses: int = 0  # within `FORGET_AFTER`
    present_since: float | None = None  # None while it is away
    lost_since: float | None = None  # None while it counts as present, and before its first presence
    has_failed: bool = False  # the loss lasts too long

    @property
    def is_steady(self) -> bool:
        """True if it is present and counts as present."""
        return self.present_since is not None and self.lost_since is None

    @property
    def hold(self) -> float:
        """Hold time in seconds."""
        return HOLDS.pause(self.losses - 2, 0.0) if self.losses >= 2 else 0.0

    @property
    def held_until(self) -> float | None:
        """The time when it will count as present if it stays; None if it is away, or counts as present."""
        if self.present_since is None or self.lost_since is None:
            return None
        return self.present_since + self.hold

    def observe(self, is_available: bool, now: float, after: float) -> "FlapDamper":
        """The state after one more observation; a loss of `after` seconds is a failure."""
        if is_available:
            return self._present(now)
        if self.present_since is None and self.lost_since is None:
            return self  # it was never present, so it cannot be lost
        losses = self.losses
        if self.present_since is not None:
            forgets = self.lost_since is None and now - self.present_since >= FORGET_AFTER
            losses = 1 if forgets else losses + 1
        lost_since = now if self.lost_since is None else self.lost_since
        return FlapDamper(losses, None, lost_since, self.has_failed or now - lost_since >= after)

    def _present(self, now: float) -> "FlapDamper":
        present = replace(self, present_since=now if self.present_since is None else self.present_since)
        if present.held_until is not None and now < present.held_until:
            return present
        return replace(present, lost_since=None, has_failed=False)


NEVER_PRESENT = FlapDamper()


def lost_at(now: float) -> FlapDamper:
    """The state of something that an earlier agent left, before its first observation."""
    return FlapDamper(losses=1, lost_since=now)


def failed_at(now: float) -> FlapDamper:
    """The state of something that is away when it is first needed: it has failed at once."""
    return FlapDamper(losses=1, lost_since=now, has_failed=True)


# The assessment.


class DataPathFault(Enum):
    """A fault of the data path: its word in status, which never changes; its text for a person; what to do."""

    CERTIFICATE_ENDED = (
        "certificate-ended",
        "there is no valid certificate",
        "see whether exclave's controller runs, and its log",
    )
    PROXY_AWAY = ("proxy-away", "no proxy is ready", "see the proxy's own log in the runtime folder")
    LINK_AWAY = ("link-away", "the private link is not whole", "see who changes it: ip monitor link address")
    RULES_REFUSED = ("rules-refused", "the kernel does not take the rules", "see the problem that nft reports")
    CONTROL_PLANE_AWAY = (
        "control-plane-away",
        "Linkerd's controllers do not answer the proxy",
        "see whether they run, and whether this machine reaches their ports 8086 and 8090",
    )
    UNSTEADY = ("data-path-unsteady", "the data path comes and goes", "see the agent's log for what ends it")

    def __init__(self, word: str, text: str, hint: str) -> None:
        self.word = word
        self.text = text
        self.hint = hint


@dataclass(frozen=True)
class DataPathFacts:
    """The input of an assessment. `link`: the private link is whole. `rules`: the kernel accepts the rules.

    `lookups`: whether Linkerd's controllers answer, None while unknown.

    `has_destinations`: whether the proxy has ever had an answer of Linkerd's destination controller.
    """

    certificate: bool
    proxy: bool
    rules: bool
    lookups: bool | None
    has_destinations: bool = True
    link: bool = True

    @property
    def missing(self) -> DataPathFault | None:
        """The first fault, which may be the cause of the others; None if the data path is whole."""
        if not self.certificate:
            return DataPathFault.CERTIFICATE_ENDED
        if not self.link:
            return DataPathFault.LINK_AWAY
        if not self.proxy:
            return DataPathFault.PROXY_AWAY
        return None if self.rules else DataPathFault.RULES_REFUSED


@dataclass(frozen=True)
class Assessment:
    """The result. `reason` and `message` name the fault."""

    outbound_open: bool = False  # outbound traffic bypasses the proxy
    outside_open: bool = False  # outbound traffic to addresses outside the cluster's networks bypasses it
    inbound_open: bool = False  # inbound traffic bypasses the proxy
    is_failing: bool = False  # the data path has failed, so ports are withdrawn
    is_steady: bool = False  # the data path is whole, and has been for its hold time
    reason: DataPathFault | None = None
    message: str = ""

    @property
    def data_path(self) -> DataPath:
        """The Member's `dataPath`, once the data path has been whole."""
        if self.outbound_open:
            return "outbound-open"
        return "down" if self.is_failing else "meshed"

    @property
    def trace(self) -> str:
        """The assessment as one line for the log."""
        inbound = "open" if self.inbound_open else "closed"
        outbound = "open" if self.outbound_open else "outside-open" if self.outside_open else "closed"
        why = self.reason.word if self.reason else "none"
        return f"[outbound={outbound} inbound={inbound} failing={self.is_failing} why={why}] {self.message}".rstrip()


@dataclass(frozen=True)
class DataPathHistory:
    """The damped states of the data path and the lookups."""

    path: FlapDamper = NEVER_PRESENT
    lookups: FlapDamper = NEVER_PRESENT

    def observe(self, facts: DataPathFacts, now: float, after: float) -> "DataPathHistory":
        """The states after these facts; a loss fails after `after` seconds."""
        lookups = self.lookups
        if facts.lookups is False and lookups == NEVER_PRESENT:
            # Waiting gains nothing for a proxy without destinations.
            lookups = lost_at(now) if facts.has_destinations else failed_at(now)
        elif facts.lookups is not None:
            lookups = lookups.observe(facts.lookups, now, after)
        return replace(self, path=self.path.observe(facts.missing is None, now, after), lookups=lookups)


def adopted_history(now: float) -> DataPathHistory:
    """The states at the start of an agent that has adopted a proxy, which may or may not serve."""
    return DataPathHistory(lost_at(now))


def assess(history: DataPathHistory, facts: DataPathFacts, policy: FailurePolicy) -> Assessment:
    """Assess. During a short loss nothing bypasses the proxy. After `failure.after` the policy decides."""
    path, lookups = history.path, history.lookups
    opens = policy.outbound == "open"
    has_failed = path.has_failed
    # Without Linkerd's controllers, a proxy still serves the destinations that it has. Past the proxy their ClusterIPs
    # lead nowhere, and their pods get plaintext. A proxy without destinations serves nobody.
    serves_nobody = has_failed or (lookups.has_failed and not facts.has_destinations)
    assessment = Assessment(
        outbound_open=opens and serves_nobody,
        # These are in no mesh. Through the proxy, new ones would wait for Linkerd's controllers.
        outside_open=opens and (serves_nobody or lookups.has_failed),
        # Lookups do not count: a proxy serves inbound traffic without them, and open ports would bypass its policies.
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
        words.append(f"tolerated for {format_duration(policy.after)}")
    if is_lookups and not assessment.outbound_open:
        words.append("destinations that the proxy used within the last hour work, others in the cluster wait")
    elif assessment.outbound_open or assessment.is_failing:
        outbound = "bypasses the proxy" if assessment.outbound_open else "fails"
        inbound = "bypasses it" if assessment.inbound_open else "fails"
        words.append(f"outbound traffic {outbound}" + (f", inbound {inbound}" if assessment.is_failing else ""))
    elif reason is DataPathFault.PROXY_AWAY:
        # Our rules drop the kernel's refusals to programs of this machine, and not those to pods.
        words.append("new outbound connections wait, inbound ones fail")
    elif reason is not DataPathFault.UNSTEADY:
        words.append("new connections fail")
    return "; ".join(words)
