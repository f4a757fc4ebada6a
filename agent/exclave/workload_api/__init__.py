"""The socket from which the proxy reads its certificate: the part of the SPIFFE Workload API that it calls."""
