"""Checks that this host can be a member at all, before anything is changed or used up."""
