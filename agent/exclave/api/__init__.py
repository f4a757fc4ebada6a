"""The contract with the cluster: requests, objects and their fields, names and constants. Pure."""
