"""Rules that go away by themselves unless somebody confirms that the machine is still reachable."""
