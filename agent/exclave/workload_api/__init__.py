"""The socket where the proxy gets its certificate: the part of the SPIFFE Workload API that the proxy calls."""
