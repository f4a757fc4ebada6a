"""The rows of the crash matrix: which process is killed at which milestone. Every milestone has a row."""

from dataclasses import dataclass
from enum import Enum

from exclave.milestones import Joining, Leaving, Milestone, Moving, Renewing, Starting, Withdrawing


class Scene(Enum):
    """What is under way at the kill, the state of the machine before, and its state once it has recovered."""

    JOIN = "exclave join", "outside", "ready"
    START = "exclave run", "stopped", "ready"
    RENEW = "a renewal", "ready", "ready"
    MOVE = "another address, and back", "ready", "ready"
    STOP = "SIGTERM", "ready", "stopped"
    # No start is tried from there: the cluster still lists the ports, and pods do not learn of it.
    CLEAN_UP = "exclave cleanup, after an agent was killed", "ready", "cleaned up"
    LEAVE = "exclave leave", "ready", "outside"
    LEAVE_COLD = "exclave leave, after an agent was killed", "ready", "outside"

    @property
    def before(self) -> str:
        return self.value[1]

    @property
    def after(self) -> str:
        return self.value[2]


@dataclass(frozen=True)
class Row:
    """`victim`: agent (or the command of the scene), proxy, or exec (the proxy, just after its exec)."""

    scene: Scene
    milestone: Milestone
    victim: str = "agent"

    @property
    def name(self) -> str:
        who = {"agent": "the agent", "proxy": "the proxy", "exec": "the proxy once it runs"}[self.victim]
        if self.victim == "agent" and self.scene in (Scene.JOIN, Scene.CLEAN_UP, Scene.LEAVE_COLD):
            who = "the command"
        return f"{self.scene.value[0]}: {self.milestone.value}: {who}"


_W = Withdrawing
_PROXY_RUNS = (_W.NOT_READY, _W.NOT_SERVING, _W.UNLISTED, _W.DRAINED, _W.HOLDING, _W.TERMINATED)
_MACHINE = (_W.HOLDING, _W.TERMINATED, _W.ENDED, _W.TABLE, _W.KEEPALIVE_ENDED, _W.LINK, _W.PRIVATE)
_HAS_PROXY = tuple(Starting)[tuple(Starting).index(Starting.PROXY_WAITS) :]

ROWS = (
    *(Row(Scene.JOIN, milestone) for milestone in Joining),
    *(Row(Scene.START, milestone) for milestone in Starting),
    *(Row(Scene.START, milestone, "proxy") for milestone in _HAS_PROXY),
    Row(Scene.START, Starting.PROXY_RELEASED, "exec"),
    *(Row(Scene.RENEW, milestone) for milestone in Renewing),
    *(Row(Scene.RENEW, milestone, "proxy") for milestone in Renewing),
    *(Row(Scene.MOVE, milestone) for milestone in Moving),
    *(Row(Scene.STOP, milestone) for milestone in _W),
    *(Row(Scene.STOP, milestone, "proxy") for milestone in _PROXY_RUNS),
    *(Row(Scene.CLEAN_UP, milestone) for milestone in _MACHINE),
    *(Row(Scene.LEAVE, milestone) for milestone in (*Leaving, *_W)),
    *(Row(Scene.LEAVE, milestone, "proxy") for milestone in (Leaving.NOTED, *_PROXY_RUNS)),
    *(Row(Scene.LEAVE_COLD, milestone) for milestone in Leaving),
)
