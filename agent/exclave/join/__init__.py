"""`exclave join`: a machine becomes a member. Every step may be repeated."""
