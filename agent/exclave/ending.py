"""The three ways to end, and the one place that says which it is.

Rules: the value starts as HAND_OVER, so whatever ends without saying how undoes nothing. It is set once, before
the parts unwind, by a signal or by the control socket; every door reads it when it closes.
"""

from enum import Enum

from exclave.kit.tasks.latest import Latest


class Ending(Enum):
    """What the parts undo when they close."""

    HAND_OVER = "hand-over"  # undo nothing: the next agent takes over
    STOP = "stop"  # drain and undo on this machine; stay a member
    LEAVE = "leave"  # undo everything, and deregister


class EndingSwitch:
    """How this run ends. One per agent; handed to every door. `asked` tells that somebody has asked for an ending."""

    def __init__(self) -> None:
        self._value = Ending.HAND_OVER
        self.asked = Latest(False)

    @property
    def value(self) -> Ending:
        """The ending as it stands; HAND_OVER until somebody asks for another."""
        return self._value

    def ask_nowait(self, ending: Ending) -> None:
        """End this way. The first to ask decides, except that LEAVE outranks STOP while nothing has unwound."""
        if not self.asked.value or (self._value is Ending.STOP and ending is Ending.LEAVE):
            self._value = ending
        self.asked.set(True)

    async def wait(self) -> Ending:
        """Wait until somebody asks for an ending."""
        await self.asked.wait_for(bool)
        return self._value
