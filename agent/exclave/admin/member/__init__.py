"""`kubectl exclave member`: list, describe, renew, evict and cordon machines."""
