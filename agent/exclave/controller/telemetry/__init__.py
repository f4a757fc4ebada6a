"""What the controller reports: Events, metrics, health."""
