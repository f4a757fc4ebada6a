"""What the host's own firewall does with connections to the captured ports."""
