"""The three ways to end, and the one value that all parts read when they close."""

from enum import Enum

from exclave.kit.tasks.latest import Latest


class Ending(Enum):
    """An ending decides what the parts undo when they close."""

    HAND_OVER = "hand-over"  # undo nothing: the next agent takes over
    STOP = "stop"  # drain and undo on this machine; stay a member
    LEAVE = "leave"  # undo everything, and deregister


class EndingSwitch:
    """The ending of this boot. `asked`: whether an ending was requested."""

    def __init__(self) -> None:
        self._value = Ending.HAND_OVER  # so a crash undoes nothing
        self.asked = Latest(False)

    @property
    def value(self) -> Ending:
        """The ending; HAND_OVER until another one is requested."""
        return self._value

    def ask_nowait(self, ending: Ending) -> None:
        """Request an ending. The first request decides, but LEAVE outranks STOP."""
        if not self.asked.value or (self._value is Ending.STOP and ending is Ending.LEAVE):
            self._value = ending
        self.asked.set(True)

    async def wait(self) -> Ending:
        """Wait until an ending is requested."""
        await self.asked.wait_for(bool)
        return self._value
