"""The commands for a person on a machine, and their output."""
