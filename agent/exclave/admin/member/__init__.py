"""`kubectl exclave member`: list, describe, evict and cordon machines."""
