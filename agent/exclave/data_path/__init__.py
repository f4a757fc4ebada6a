"""The data path's assessment, with flap damping, for rules, listing and status."""
