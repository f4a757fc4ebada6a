"""Reports when pods may send traffic here: probes, readiness, and the order in which both are reported."""
