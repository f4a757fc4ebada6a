"""Concurrency on trio: published values, supervision, back-off, clocks."""
