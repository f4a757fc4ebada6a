"""workload_api."""
