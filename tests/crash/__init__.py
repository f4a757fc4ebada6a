"""The crash matrix: what is killed, at which step, and what becomes of it."""
