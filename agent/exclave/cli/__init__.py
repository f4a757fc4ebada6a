"""The commands a person types on a machine, and what they print."""
