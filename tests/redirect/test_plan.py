"""What is done about the table: what is wanted, what is there, and what we made of it."""

from dataclasses import replace

import pytest

from exclave.redirect.kernel.observe import NOTHING, Observed
from exclave.redirect.plan import FIGHT, PAUSE, WITHIN, Action, is_wider, pause_after, plan_table
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import ruleset_digest

from .policies import PLAIN

OURS = Observed(installed=True, instance="a", digest=ruleset_digest(PLAIN), fingerprint="as we made it")
MADE = OURS.fingerprint
HOLDING = Observed(installed=True, is_draining=True, fingerprint="holding")

UNCONFIRMED, OVER = replace(PLAIN, armed_until=60.0), replace(PLAIN, armed_until=0.0)
TIMED = replace(OURS, digest=ruleset_digest(UNCONFIRMED))

CASES: dict[str, tuple[RedirectPolicy | None, Observed, str | None, Action]] = {
    "nothing wanted, nothing there": (None, NOTHING, None, Action.NOTHING),
    "nothing wanted, and a table is there": (None, OURS, MADE, Action.APPLY),
    "nothing wanted, and an earlier agent's table is there": (None, OURS, None, Action.APPLY),
    "nothing wanted, and what is there holds": (None, HOLDING, None, Action.NOTHING),
    "wanted, and what is there holds": (PLAIN, HOLDING, None, Action.APPLY),
    "wanted, and nothing there yet": (PLAIN, NOTHING, None, Action.APPLY),
    "wanted and there": (PLAIN, OURS, MADE, Action.NOTHING),
    "there, but nobody knows what was done to it": (PLAIN, OURS, None, Action.APPLY),
    "others removed it": (PLAIN, NOTHING, MADE, Action.REPAIR),
    "others changed it": (PLAIN, replace(OURS, fingerprint="as they made it"), MADE, Action.REPAIR),
    "another instance is wanted": (replace(PLAIN, instance="b"), OURS, MADE, Action.APPLY),
    "a policy that makes the same rules": (replace(PLAIN, exempt_inbound_ports=(22,)), OURS, MADE, Action.NOTHING),
    "they are not confirmed, and their time runs": (
        UNCONFIRMED, replace(TIMED, armed_left=7.0), MADE, Action.NOTHING),
    "their time is over in the kernel": (UNCONFIRMED, replace(TIMED, armed_left=0.0), MADE, Action.NOTHING),
    "their time is over before the kernel's": (OVER, replace(TIMED, armed_left=7.0), MADE, Action.APPLY),
    "their time is over": (OVER, replace(TIMED, armed_left=0.0), MADE, Action.NOTHING),
    "they are confirmed": (PLAIN, replace(TIMED, armed_left=7.0), MADE, Action.APPLY),
    "connections were counted": (PLAIN, replace(OURS, inbound=7, outbound=7, dropped=7), MADE, Action.NOTHING),
}  # fmt: skip


@pytest.mark.parametrize(("wanted", "observed", "reference", "action"), CASES.values(), ids=CASES)
def test_decision(wanted: RedirectPolicy | None, observed: Observed, reference: str | None, action: Action) -> None:
    assert plan_table(wanted, observed, reference) is action


def test_whoever_undoes_every_repair_is_answered_slowly() -> None:
    moments = [float(second) for second in range(FIGHT)]
    assert pause_after([], 0.0) == 0.0
    assert pause_after(moments[1:], moments[-1]) == 0.0
    assert pause_after(moments, moments[-1]) == PAUSE
    assert pause_after(moments, moments[0] + WITHIN) == 0.0  # the first of them is too long ago


def test_a_swap_alone_widens_nothing() -> None:
    assert not is_wider(PLAIN, replace(PLAIN, instance="b", trial="b"))
    assert is_wider(replace(PLAIN, outbound=False), PLAIN)
    assert is_wider(replace(PLAIN, inbound_ports=()), PLAIN)
    assert is_wider(None, PLAIN)
