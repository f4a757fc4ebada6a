"""Events, metrics and health of the controller."""
