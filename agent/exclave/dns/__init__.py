"""Names of the mesh's control plane, which the proxies look up: a DNS stub on the private link."""

from exclave.dns.server import DnsStub, open_dns

__all__ = ["DnsStub", "open_dns"]
