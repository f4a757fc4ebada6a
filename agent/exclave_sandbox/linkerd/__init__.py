"""Stand-ins for Linkerd's control plane."""
