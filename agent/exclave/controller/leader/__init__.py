"""Leader election, and the loop that only the leader runs."""
