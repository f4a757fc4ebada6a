"""The names of a member in certificates, in ExternalWorkloads and in Linkerd's policies. Pure.

A certificate has two SANs in this order: the DNS name, by which the proxy and policies on ServiceAccounts identify a
client; then the SPIFFE URI, by which peers verify a server.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class MeshIdentity:
    """One ServiceAccount's identity in one mesh."""

    service_account: str
    namespace: str
    linkerd_namespace: str
    trust_domain: str

    @property
    def dns_name(self) -> str:
        """First SAN: the name that linkerd-identity would certify for this account."""
        return (
            f"{self.service_account}.{self.namespace}.serviceaccount.identity"
            f".{self.linkerd_namespace}.{self.trust_domain}"
        )

    @property
    def spiffe_id(self) -> str:
        """Second SAN, and `spec.meshTLS.identity` of the ExternalWorkload."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def server_name(group: str, namespace: str, cluster_domain: str) -> str:
    """The SNI of the group's members, who end TLS under it: `spec.meshTLS.serverName`."""
    return f"{group}.{namespace}.svc.{cluster_domain}"


def destination_identity(linkerd_namespace: str, trust_domain: str) -> str:
    """The DNS identity of Linkerd's destination and policy controllers."""
    return f"linkerd-destination.{linkerd_namespace}.serviceaccount.identity.{linkerd_namespace}.{trust_domain}"
