"""`kubectl exclave group`: which machines may join, under which identity, with which ports."""
