"""The proxy: its environment, its process, its readiness. It outlives an agent that hands over."""
