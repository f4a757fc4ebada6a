"""The socket that the proxy reads its certificate from: the part of the SPIFFE Workload API that it calls."""

from exclave.workload_api.server import WorkloadApi, open_workload_api

__all__ = ["WorkloadApi", "open_workload_api"]
