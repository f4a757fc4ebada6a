"""The machine's own objects in the cluster: Member, settings, heartbeat."""
