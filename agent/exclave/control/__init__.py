"""The control socket between the agent and its commands."""
