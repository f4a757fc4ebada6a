"""Swaps: traffic moves from one proxy instance to the other and back, and no connection fails."""

from exclave.swap.move import Outcome, Step, Swap, open_swap

__all__ = ["Outcome", "Step", "Swap", "open_swap"]
