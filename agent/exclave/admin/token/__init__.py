"""`kubectl exclave token`: create, list and revoke join tokens."""
