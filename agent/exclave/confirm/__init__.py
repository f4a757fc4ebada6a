"""Rules that are removed unless a person confirms that the machine is still reachable."""
