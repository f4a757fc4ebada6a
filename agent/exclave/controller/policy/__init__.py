"""The controller's decisions. Pure: a snapshot of the cluster in, transitions out."""
