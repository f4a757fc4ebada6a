"""Swaps: traffic moves from one proxy instance to the other, and no connection fails."""
