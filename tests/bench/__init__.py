"""Figures, printed: each beside a peer that was measured in the same run, since machines are shared and noisy."""
