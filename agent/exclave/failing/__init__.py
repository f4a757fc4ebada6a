"""What the data path has come to when something is away: one judgement, damped, for rules, listing and status."""

from exclave.failing.judgement import Judgement, Reason
from exclave.failing.looking import Failing, open_failing

__all__ = ["Failing", "Judgement", "Reason", "open_failing"]
