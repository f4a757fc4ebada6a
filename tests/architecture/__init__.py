"""Rules of the architecture, as tests that fail with the reason."""
