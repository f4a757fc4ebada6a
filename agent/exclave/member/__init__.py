"""What this machine says of itself, and what the cluster says to it: its Member, settings, heartbeat."""

from exclave.member.presence import Membership, open_member
from exclave.member.record import MembershipRecord
from exclave.member.settings import Settings
from exclave.member.spec import Condition, MemberView
from exclave.member.state import Standing, State

__all__ = [
    "Condition",
    "MemberView",
    "Membership",
    "MembershipRecord",
    "Settings",
    "Standing",
    "State",
    "open_member",
]
