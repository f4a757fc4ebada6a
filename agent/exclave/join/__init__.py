"""Becoming a member: the join token, the sealed credential, and the steps that may be repeated."""
