"""The rows of the crash matrix: who is killed at which step, while what is under way. Every step has one."""

from dataclasses import dataclass
from enum import Enum

from exclave.milestones import Joining, Leaving, Moving, Renewing, Starting, Step, Withdrawing


class Scene(Enum):
    """What is under way when somebody is killed, and how the machine stands before and after all is well again."""

    JOIN = "exclave join", "outside", "ready"
    START = "exclave run", "stopped", "ready"
    RENEW = "a renewal", "ready", "ready"
    MOVE = "another address, and back", "ready", "ready"
    STOP = "SIGTERM", "ready", "stopped"
    CLEAN_UP = "exclave cleanup, after an agent was killed", "ready", "stopped"
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
    """`victim`: agent (or the command that does it), proxy, or exec (the proxy, just after it has become one)."""

    scene: Scene
    step: Step
    victim: str = "agent"

    @property
    def name(self) -> str:
        who = {"agent": "the agent", "proxy": "the proxy", "exec": "the proxy once it runs"}[self.victim]
        if self.victim == "agent" and self.scene in (Scene.JOIN, Scene.CLEAN_UP, Scene.LEAVE_COLD):
            who = "the command"
        return f"{self.scene.value[0]}: {self.step.value}: {who}"


_W = Withdrawing
_PROXY_RUNS = (_W.NOT_READY, _W.NOT_SERVING, _W.UNLISTED, _W.DRAINED, _W.HOLDING, _W.TERMINATED)
_MACHINE = (_W.HOLDING, _W.TERMINATED, _W.ENDED, _W.TABLE, _W.KEEPALIVE_ENDED, _W.LINK)
_HAS_PROXY = tuple(Starting)[tuple(Starting).index(Starting.PROXY_WAITS) :]

ROWS = (
    *(Row(Scene.JOIN, step) for step in Joining),
    *(Row(Scene.START, step) for step in Starting),
    *(Row(Scene.START, step, "proxy") for step in _HAS_PROXY),
    Row(Scene.START, Starting.PROXY_RELEASED, "exec"),
    *(Row(Scene.RENEW, step) for step in Renewing),
    *(Row(Scene.RENEW, step, "proxy") for step in Renewing),
    *(Row(Scene.MOVE, step) for step in Moving),
    *(Row(Scene.STOP, step) for step in _W),
    *(Row(Scene.STOP, step, "proxy") for step in _PROXY_RUNS),
    *(Row(Scene.CLEAN_UP, step) for step in _MACHINE),
    *(Row(Scene.LEAVE, step) for step in (*Leaving, *_W)),
    *(Row(Scene.LEAVE, step, "proxy") for step in (Leaving.NOTED, *_PROXY_RUNS)),
    *(Row(Scene.LEAVE_COLD, step) for step in Leaving),
)
