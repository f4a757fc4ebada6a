"""The agent's process: boot order, status, and teardown."""
