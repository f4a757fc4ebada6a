"""Whether the data path works, with flap damping: one assessment for rules, listing and status."""
