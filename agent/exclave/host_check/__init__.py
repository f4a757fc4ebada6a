"""Whether this host can be a member at all, checked before anything is changed or used up."""
