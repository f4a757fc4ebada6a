"""A stand-in for linkerd2-proxy."""
